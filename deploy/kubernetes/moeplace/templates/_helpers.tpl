{{- define "moeplace.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "moeplace.selector" -}}
app.kubernetes.io/name: moeplace
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "moeplace.labels" -}}
{{ include "moeplace.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "moeplace.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "moeplace.name" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "moeplace.image" -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}

{{- /* What both kinds of pods have in common, below `spec`. Takes the root context. */ -}}
{{- define "moeplace.pod" -}}
serviceAccountName: {{ include "moeplace.serviceAccount" . }}
automountServiceAccountToken: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  seccompProfile: {type: RuntimeDefault}
# The image's file system is read-only here, and numba wants to write where it reads: it gets a copy.
initContainers:
  - name: kernels
    image: {{ include "moeplace.image" . }}
    imagePullPolicy: {{ .Values.image.pullPolicy }}
    command: [cp, --archive, /opt/moeplace-kernels/., /kernels/]
    securityContext: {{- include "moeplace.containerSecurity" . | nindent 6 }}
    resources:
      requests: {cpu: 50m, memory: 32Mi}
      limits: {memory: 64Mi}
    volumeMounts:
      - {name: kernels, mountPath: /kernels}
volumes:
  - name: kernels
    emptyDir: {sizeLimit: 256Mi}
  - name: tmp
    emptyDir: {sizeLimit: 256Mi}
{{- end -}}

{{- define "moeplace.requireTokens" -}}
{{- if and (not .Values.auth.existingSecret) (not .Values.auth.allowUnauthenticated) }}
{{- fail "auth.existingSecret or auth.allowUnauthenticated: the API does not listen openly without an operator's token; see values.yaml" }}
{{- end }}
{{- if and .Values.auth.existingSecret .Values.auth.allowUnauthenticated }}
{{- fail "auth.allowUnauthenticated: with it no token is looked at, so leave auth.existingSecret out" }}
{{- end }}
{{- end -}}

{{- define "moeplace.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- define "moeplace.mounts" -}}
- {name: kernels, mountPath: /opt/moeplace-kernels}
- {name: tmp, mountPath: /tmp}
{{- end -}}

{{- define "moeplace.environment" -}}
{{- if and (not .Values.redis.url) (not .Values.redis.existingSecret) }}
{{- fail "redis.url or redis.existingSecret: give one, for example --set redis.url=valkey://valkey:6379" }}
{{- end }}
- name: MOEPLACE_REDIS_URL
  {{- if .Values.redis.existingSecret }}
  valueFrom:
    secretKeyRef: {name: {{ .Values.redis.existingSecret }}, key: {{ .Values.redis.existingSecretKey }}}
  {{- else }}
  value: {{ .Values.redis.url | quote }}
  {{- end }}
{{- range $name, $value := .Values.settings }}
- name: {{ $name }}
  value: {{ $value | toString | quote }}
{{- end }}
{{- end -}}
