"""The demo's cluster and model, as the service is told of them."""

from lab.demo.scenario import MODEL_ID, Pace, cluster_settings, model_spec
from lab.harness.failures import RunFailed
from moeplace_agent.client import ServiceClient, ServiceError


async def register_cluster(client: ServiceClient, pace: Pace) -> None:
    """Raises `RunFailed` where the service does not take them."""
    try:
        await client.put("", cluster_settings(pace))
        await client.put(f"/models/{MODEL_ID}", model_spec())
    except ServiceError as error:
        raise RunFailed(f"the service does not take the cluster or the model: {error}") from error
