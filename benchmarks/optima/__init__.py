"""`certified` against the optima that HiGHS finds."""
