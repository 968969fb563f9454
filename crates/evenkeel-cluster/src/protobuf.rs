//! Reads the protobuf bodies that `kubectl create`, `auth` and `drain` send.
//!
//! Field names in Kubernetes' protobuf are those of its JSON, so a table of field numbers is
//! enough. A kind or field that is not in the table is refused, never dropped.
//!
//! **Source**: the `generated.proto` files of `k8s.io/api` and `k8s.io/apimachinery`.

use std::{collections::BTreeMap, sync::LazyLock};

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::{base64, error::ApiError, value::stamp};

/// One message per line: `Name: number field type, ...`.
///
/// Types: `s` text, `i` number left out when 0, `I` number, `b` flag left out when false, `B`
/// flag, `y` bytes, `ms` text by text, `my` bytes by text, `mq` quantities by text, `t` time, `x`
/// int or string, `q` quantity, `-` not read, else the name of a message. A leading `*` is a list;
/// the fields of a message with a leading `~` stand beside the others.
const MESSAGES: &str = "\
ObjectMeta: 1 name s, 2 generateName s, 3 namespace s, 4 selfLink -, 5 uid s, \
6 resourceVersion s, 7 generation -, 8 creationTimestamp t, 9 deletionTimestamp -, \
10 deletionGracePeriodSeconds -, 11 labels ms, 12 annotations ms, \
13 ownerReferences *OwnerReference, 14 finalizers *s, 17 managedFields -
OwnerReference: 1 kind s, 3 name s, 4 uid s, 5 apiVersion s, 6 controller B, \
7 blockOwnerDeletion B
LabelSelector: 1 matchLabels ms, 2 matchExpressions *LabelSelectorRequirement
LabelSelectorRequirement: 1 key s, 2 operator s, 3 values *s
DeleteOptions: 1 gracePeriodSeconds I, 2 preconditions Preconditions, 3 orphanDependents B, \
4 propagationPolicy s, 5 dryRun *s
Preconditions: 1 uid s, 2 resourceVersion s
Eviction: 1 metadata ObjectMeta, 2 deleteOptions DeleteOptions
Namespace: 1 metadata ObjectMeta, 2 spec NamespaceSpec, 3 status -
NamespaceSpec: 1 finalizers *s
ConfigMap: 1 metadata ObjectMeta, 2 data ms, 3 binaryData my, 4 immutable B
Secret: 1 metadata ObjectMeta, 2 data my, 3 type s, 4 stringData ms, 5 immutable B
ServiceAccount: 1 metadata ObjectMeta, 2 secrets -, 3 imagePullSecrets *LocalObjectReference, \
4 automountServiceAccountToken B
LocalObjectReference: 1 name s
Service: 1 metadata ObjectMeta, 2 spec ServiceSpec, 3 status -
ServiceSpec: 1 ports *ServicePort, 2 selector ms, 3 clusterIP s, 4 type s, 5 externalIPs *s, \
7 sessionAffinity s, 8 loadBalancerIP s, 9 loadBalancerSourceRanges *s, 10 externalName s, \
11 externalTrafficPolicy s, 12 healthCheckNodePort i, 13 publishNotReadyAddresses b, \
17 ipFamilyPolicy s, 18 clusterIPs *s, 19 ipFamilies *s, 22 internalTrafficPolicy s
ServicePort: 1 name s, 2 protocol s, 3 port i, 4 targetPort x, 5 nodePort i, 6 appProtocol s
Deployment: 1 metadata ObjectMeta, 2 spec DeploymentSpec, 3 status -
DeploymentSpec: 1 replicas I, 2 selector LabelSelector, 3 template PodTemplateSpec, \
4 strategy DeploymentStrategy, 5 minReadySeconds i, 6 revisionHistoryLimit I, 7 paused b, \
9 progressDeadlineSeconds I
DeploymentStrategy: 1 type s, 2 rollingUpdate RollingUpdateDeployment
RollingUpdateDeployment: 1 maxUnavailable x, 2 maxSurge x
Job: 1 metadata ObjectMeta, 2 spec JobSpec, 3 status -
JobSpec: 1 parallelism I, 2 completions I, 3 activeDeadlineSeconds I, 4 selector LabelSelector, \
5 manualSelector B, 6 template PodTemplateSpec, 7 backoffLimit I, 8 ttlSecondsAfterFinished I, \
9 completionMode s, 10 suspend B
CronJob: 1 metadata ObjectMeta, 2 spec CronJobSpec, 3 status -
CronJobSpec: 1 schedule s, 2 startingDeadlineSeconds I, 3 concurrencyPolicy s, 4 suspend B, \
5 jobTemplate JobTemplateSpec, 6 successfulJobsHistoryLimit I, 7 failedJobsHistoryLimit I, \
8 timeZone s
JobTemplateSpec: 1 metadata ObjectMeta, 2 spec JobSpec
PodDisruptionBudget: 1 metadata ObjectMeta, 2 spec PodDisruptionBudgetSpec, 3 status -
PodDisruptionBudgetSpec: 1 minAvailable x, 2 selector LabelSelector, 3 maxUnavailable x, \
4 unhealthyPodEvictionPolicy s
PriorityClass: 1 metadata ObjectMeta, 2 value i, 3 globalDefault b, 4 description s, \
5 preemptionPolicy s
Pod: 1 metadata ObjectMeta, 2 spec PodSpec, 3 status -
PodTemplateSpec: 1 metadata ObjectMeta, 2 spec PodSpec
PodSpec: 1 volumes *Volume, 2 containers *Container, 3 restartPolicy s, \
4 terminationGracePeriodSeconds I, 5 activeDeadlineSeconds I, 6 dnsPolicy s, 7 nodeSelector ms, \
8 serviceAccountName s, 9 serviceAccount s, 10 nodeName s, 11 hostNetwork b, 12 hostPID b, \
13 hostIPC b, 14 securityContext PodSecurityContext, 15 imagePullSecrets *LocalObjectReference, 16 hostname s, \
17 subdomain s, 19 schedulerName s, 20 initContainers *Container, \
21 automountServiceAccountToken B, 22 tolerations *Toleration, 24 priorityClassName s, \
25 priority I, 27 shareProcessNamespace B, 30 enableServiceLinks B, 31 preemptionPolicy s
PodSecurityContext: 2 runAsUser I, 3 runAsNonRoot B, 4 supplementalGroups *I, 5 fsGroup I, \
6 runAsGroup I, 9 fsGroupChangePolicy s, 10 seccompProfile SeccompProfile
SeccompProfile: 1 type s, 2 localhostProfile s
SecurityContext: 1 capabilities Capabilities, 2 privileged B, 4 runAsUser I, 5 runAsNonRoot B, \
6 readOnlyRootFilesystem B, 7 allowPrivilegeEscalation B, 8 runAsGroup I, \
11 seccompProfile SeccompProfile
Capabilities: 1 add *s, 2 drop *s
Volume: 1 name s, 2 volumeSource ~VolumeSource
VolumeSource: 1 hostPath HostPathVolumeSource, 2 emptyDir EmptyDirVolumeSource, \
6 secret SecretVolumeSource, 10 persistentVolumeClaim PersistentVolumeClaimVolumeSource, \
16 downwardAPI DownwardAPIVolumeSource, 19 configMap ConfigMapVolumeSource, \
26 projected ProjectedVolumeSource
HostPathVolumeSource: 1 path s, 2 type s
EmptyDirVolumeSource: 1 medium s, 2 sizeLimit q
SecretVolumeSource: 1 secretName s, 2 items *KeyToPath, 3 defaultMode I, 4 optional B
ConfigMapVolumeSource: 1 reference ~LocalObjectReference, 2 items *KeyToPath, 3 defaultMode I, \
4 optional B
KeyToPath: 1 key s, 2 path s, 3 mode I
PersistentVolumeClaimVolumeSource: 1 claimName s, 2 readOnly b
DownwardAPIVolumeSource: 1 items *DownwardAPIVolumeFile, 2 defaultMode I
DownwardAPIVolumeFile: 1 path s, 2 fieldRef ObjectFieldSelector, \
3 resourceFieldRef ResourceFieldSelector, 4 mode I
ObjectFieldSelector: 1 apiVersion s, 2 fieldPath s
ResourceFieldSelector: 1 containerName s, 2 resource s, 3 divisor q
ProjectedVolumeSource: 1 sources *VolumeProjection, 2 defaultMode I
VolumeProjection: 1 secret NamedProjection, 2 downwardAPI DownwardAPIVolumeSource, \
3 configMap NamedProjection, 4 serviceAccountToken ServiceAccountTokenProjection
NamedProjection: 1 reference ~LocalObjectReference, 2 items *KeyToPath, 4 optional B
ServiceAccountTokenProjection: 1 audience s, 2 expirationSeconds I, 3 path s
Toleration: 1 key s, 2 operator s, 3 value s, 4 effect s, 5 tolerationSeconds I
Container: 1 name s, 2 image s, 3 command *s, 4 args *s, 5 workingDir s, 6 ports *ContainerPort, \
7 env *EnvVar, 8 resources ResourceRequirements, 9 volumeMounts *VolumeMount, \
10 livenessProbe Probe, 11 readinessProbe Probe, 13 terminationMessagePath s, \
14 imagePullPolicy s, 15 securityContext SecurityContext, 16 stdin b, 17 stdinOnce b, 18 tty b, \
19 envFrom *EnvFromSource, 20 terminationMessagePolicy s, 22 startupProbe Probe, 24 restartPolicy s
VolumeMount: 1 name s, 2 readOnly b, 3 mountPath s, 4 subPath s, 5 mountPropagation s, \
6 subPathExpr s
Probe: 1 handler ~ProbeHandler, 2 initialDelaySeconds i, 3 timeoutSeconds i, 4 periodSeconds i, \
5 successThreshold i, 6 failureThreshold i, 7 terminationGracePeriodSeconds I
ProbeHandler: 1 exec ExecAction, 2 httpGet HTTPGetAction, 3 tcpSocket TCPSocketAction
ExecAction: 1 command *s
HTTPGetAction: 1 path s, 2 port x, 3 host s, 4 scheme s, 5 httpHeaders *HTTPHeader
HTTPHeader: 1 name s, 2 value s
TCPSocketAction: 1 port x, 2 host s
ContainerPort: 1 name s, 2 hostPort i, 3 containerPort i, 4 protocol s, 5 hostIP s
EnvVar: 1 name s, 2 value s, 3 valueFrom EnvVarSource
EnvVarSource: 1 fieldRef ObjectFieldSelector, 2 resourceFieldRef ResourceFieldSelector, \
3 configMapKeyRef KeySelector, 4 secretKeyRef KeySelector
KeySelector: 1 reference ~LocalObjectReference, 2 key s, 3 optional B
EnvFromSource: 1 prefix s, 2 configMapRef NamedEnvSource, 3 secretRef NamedEnvSource
NamedEnvSource: 1 reference ~LocalObjectReference, 2 optional B
ResourceRequirements: 1 limits mq, 2 requests mq
SelfSubjectReview: 1 metadata ObjectMeta, 2 status -
SelfSubjectAccessReview: 1 metadata ObjectMeta, 2 spec SelfSubjectAccessReviewSpec, 3 status -
SelfSubjectAccessReviewSpec: 1 resourceAttributes ResourceAttributes, \
2 nonResourceAttributes NonResourceAttributes
ResourceAttributes: 1 namespace s, 2 verb s, 3 group s, 4 version s, 5 resource s, \
6 subresource s, 7 name s
NonResourceAttributes: 1 path s, 2 verb s
SelfSubjectRulesReview: 1 metadata ObjectMeta, 2 spec SelfSubjectRulesReviewSpec, 3 status -
SelfSubjectRulesReviewSpec: 1 namespace s
";

/// Field name and type, by number.
type Message = BTreeMap<u64, (&'static str, &'static str)>;

static TABLE: LazyLock<BTreeMap<&'static str, Message>> = LazyLock::new(|| {
    let message = |line: &'static str| {
        let (name, fields) = line.split_once(':')?;
        let fields = fields.split(',').filter_map(|field| {
            let mut parts = field.split_whitespace();
            Some((parts.next()?.parse().ok()?, (parts.next()?, parts.next()?)))
        });
        Some((name, fields.collect()))
    };
    MESSAGES.lines().filter_map(message).collect()
});

/// Start of every body.
const MAGIC: &[u8] = b"k8s\0";
/// Depth of messages; nothing real is deeper than a dozen.
const DEPTH_MAX: usize = 32;

/// The body as JSON.
pub(crate) fn decode(body: &[u8]) -> Result<Value, ApiError> {
    let bad = |problem: String| ApiError::bad_request(format!("protobuf body: {problem}"));
    let envelope = body.strip_prefix(MAGIC).ok_or_else(|| bad("magic number missing".into()))?;
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    for field in Fields(envelope) {
        match field.map_err(bad)? {
            (1, Wire::Bytes(meta)) => {
                for field in Fields(meta) {
                    match field.map_err(bad)? {
                        (1, Wire::Bytes(text)) => api_version = utf8(text).map_err(bad)?,
                        (2, Wire::Bytes(text)) => kind = utf8(text).map_err(bad)?,
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    if !TABLE.contains_key(kind.as_str()) {
        return Err(ApiError::new(
            415,
            "UnsupportedMediaType",
            format!(
                "{kind} in protobuf is not supported: add --dry-run=client -o yaml | kubectl apply -f -"
            ),
        ));
    }
    let mut object = message(&kind, raw, 0).map_err(bad)?;
    object.insert("apiVersion".to_owned(), json!(api_version));
    object.insert("kind".to_owned(), json!(kind));
    Ok(Value::Object(object))
}

fn utf8(bytes: &[u8]) -> Result<String, String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| "a text is not UTF-8".to_owned())
}

/// A field as it lies on the wire.
enum Wire<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The fields of a message, in order.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Option<u64> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            number |= u64::from(byte & 0x7f).checked_shl(shift)?;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn field(&mut self) -> Option<(u64, Wire<'a>)> {
        let tag = self.varint()?;
        let wire = match tag & 7 {
            0 => Wire::Number(self.varint()?),
            1 => Wire::Bytes(self.take(8)?),
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Wire::Bytes(self.take(length)?)
            }
            5 => Wire::Bytes(self.take(4)?),
            _ => return None,
        };
        Some((tag >> 3, wire))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Wire<'a>), String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field().ok_or_else(|| "it ends in the middle of a field".to_owned());
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

fn message(name: &str, bytes: &[u8], depth: usize) -> Result<Map<String, Value>, String> {
    if depth > DEPTH_MAX {
        return Err("it is nested too deeply".to_owned());
    }
    let known = TABLE.get(name).ok_or_else(|| format!("message {name} is not known"))?;
    let mut object = Map::new();
    for field in Fields(bytes) {
        let (number, wire) = field?;
        let Some((field, kind)) = known.get(&number) else {
            return Err(format!(
                "field {number} of {name} is not supported: send it as JSON (kubectl create -f)"
            ));
        };
        if *kind == "-" {
            continue;
        }
        if let Some(kind) = kind.strip_prefix('*') {
            let item = match (kind, &wire) {
                // An empty argument is one.
                ("s", Wire::Bytes(bytes)) => Some(json!(utf8(bytes)?)),
                _ => value(kind, &wire, depth)?,
            };
            if let Some(value) = item {
                let list = object.entry(*field).or_insert_with(|| json!([]));
                if let Some(list) = list.as_array_mut() {
                    list.push(value);
                }
            }
        } else if let (Some(kind), Wire::Bytes(bytes)) = (kind.strip_prefix('~'), &wire) {
            object.extend(message(kind, bytes, depth + 1)?);
        } else if let Some(kind) = kind.strip_prefix('m') {
            if let Wire::Bytes(entry) = wire {
                let (key, value) = entry_of(kind, entry)?;
                let map = object.entry(*field).or_insert_with(|| json!({}));
                map[key] = value;
            }
        } else if let Some(value) = value(kind, &wire, depth)? {
            object.insert((*field).to_owned(), value);
        }
    }
    Ok(object)
}

/// One value; `None` when it is absent.
fn value(kind: &str, wire: &Wire<'_>, depth: usize) -> Result<Option<Value>, String> {
    Ok(match (kind, wire) {
        ("s", Wire::Bytes(bytes)) => Some(utf8(bytes)?).filter(|t| !t.is_empty()).map(Value::from),
        ("y", Wire::Bytes(bytes)) => Some(json!(base64::encode(bytes))),
        ("I", Wire::Number(number)) => Some(json!(number.cast_signed())),
        ("i", Wire::Number(number)) => (*number != 0).then(|| json!(number.cast_signed())),
        ("B", Wire::Number(number)) => Some(json!(*number != 0)),
        ("b", Wire::Number(number)) => (*number != 0).then(|| json!(true)),
        ("x", Wire::Bytes(bytes)) => Some(int_or_string(bytes)?),
        ("q", Wire::Bytes(bytes)) => Some(quantity(bytes)?),
        ("t", Wire::Bytes(bytes)) => time(bytes)?,
        (name, Wire::Bytes(bytes)) => Some(Value::Object(message(name, bytes, depth + 1)?)),
        (_, Wire::Number(_)) => return Err("a field is of another type".to_owned()),
    })
}

fn entry_of(kind: &str, entry: &[u8]) -> Result<(String, Value), String> {
    let (mut key, mut found) = (String::new(), json!(""));
    for field in Fields(entry) {
        match field? {
            (1, Wire::Bytes(text)) => key = utf8(text)?,
            (2, Wire::Bytes(bytes)) => {
                found = match kind {
                    "s" => json!(utf8(bytes)?),
                    "y" => json!(base64::encode(bytes)),
                    _ => quantity(bytes)?,
                };
            }
            _ => {}
        }
    }
    Ok((key, found))
}

fn quantity(bytes: &[u8]) -> Result<Value, String> {
    for field in Fields(bytes) {
        if let (1, Wire::Bytes(text)) = field? {
            return utf8(text).map(Value::from);
        }
    }
    Ok(json!("0"))
}

fn int_or_string(bytes: &[u8]) -> Result<Value, String> {
    let (mut is_text, mut number, mut text) = (false, 0, String::new());
    for field in Fields(bytes) {
        match field? {
            (1, Wire::Number(kind)) => is_text = kind == 1,
            (2, Wire::Number(value)) => number = value.cast_signed(),
            (3, Wire::Bytes(bytes)) => text = utf8(bytes)?,
            _ => {}
        }
    }
    Ok(if is_text { json!(text) } else { json!(number) })
}

fn time(bytes: &[u8]) -> Result<Option<Value>, String> {
    for field in Fields(bytes) {
        if let (1, Wire::Number(seconds)) = field? {
            let at = Timestamp::from_second(seconds.cast_signed());
            return Ok(at.ok().filter(|_| seconds != 0).map(|at| json!(stamp(at))));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A length-delimited field.
    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        let mut all = vec![number << 3 | 2, u8::try_from(bytes.len()).unwrap()];
        all.extend(bytes);
        all
    }

    fn body(kind: &str, raw: &[u8]) -> Vec<u8> {
        let meta = [field(1, b"v1"), field(2, kind.as_bytes())].concat();
        [MAGIC.to_vec(), field(1, &meta), field(2, raw)].concat()
    }

    #[test]
    fn a_config_map_is_read() {
        let meta = field(1, &field(1, b"settings"));
        let entry = field(2, &[field(1, b"mode"), field(2, b"fast")].concat());
        let read = decode(&body("ConfigMap", &[meta, entry].concat())).unwrap();
        assert_eq!(
            read,
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"},
                "data": {"mode": "fast"}})
        );
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        assert_eq!(decode(&body("Unheard", b"")).unwrap_err().code, 415);
        let error = decode(&body("ConfigMap", &field(9, b"x"))).unwrap_err();
        assert!(error.message.contains("field 9 of ConfigMap"), "{error}");
        for cut in [&b"k8s"[..], b"k8s\0\x0a", b"k8s\0\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"]
        {
            assert!(decode(cut).is_err());
        }
    }

    #[test]
    fn every_message_that_is_named_is_in_the_table() {
        for (name, fields) in TABLE.iter() {
            for (field, kind) in fields.values() {
                let kind = kind.trim_start_matches(['*', '~']);
                let plain = ["s", "i", "I", "b", "B", "y", "ms", "my", "mq", "q", "t", "x", "-"];
                assert!(plain.contains(&kind) || TABLE.contains_key(kind), "{name}.{field} {kind}");
            }
        }
    }
}
