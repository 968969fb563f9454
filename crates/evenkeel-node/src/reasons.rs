//! Every event, condition and waiting reason the agent writes.

/// The image map does not name the image.
pub const ERR_IMAGE_PULL: &str = "ErrImagePull";
/// The same, between two looks at the map.
pub const IMAGE_PULL_BACK_OFF: &str = "ImagePullBackOff";
/// The environment or the command of the container cannot be made.
pub const CREATE_CONFIG_ERROR: &str = "CreateContainerConfigError";
/// The process could not be started.
pub const RUN_ERROR: &str = "RunContainerError";
/// The container waits for the first time.
pub const CONTAINER_CREATING: &str = "ContainerCreating";
/// The container waits for init containers.
pub const POD_INITIALIZING: &str = "PodInitializing";
/// The container has ended too often and waits.
pub const CRASH_LOOP_BACK_OFF: &str = "CrashLoopBackOff";
/// Ended with exit code 0.
pub const COMPLETED: &str = "Completed";
/// Ended with another exit code.
pub const ERROR: &str = "Error";
/// Ended unseen.
pub const STATUS_UNKNOWN: &str = "ContainerStatusUnknown";

/// Condition: some init containers have not completed.
pub const NOT_INITIALIZED: &str = "ContainersNotInitialized";
/// Condition: some containers are not ready.
pub const NOT_READY: &str = "ContainersNotReady";
/// Condition: a readiness gate is not true.
pub const GATES_NOT_READY: &str = "ReadinessGatesNotReady";
/// Condition: the pod is over.
pub const POD_COMPLETED: &str = "PodCompleted";

/// Event: the image is known.
pub const PULLED: &str = "Pulled";
/// Event: the container has been made.
pub const CREATED: &str = "Created";
/// Event: the container runs.
pub const STARTED: &str = "Started";
/// Event: the container is being stopped.
pub const KILLING: &str = "Killing";
/// Event: a probe failed.
pub const UNHEALTHY: &str = "Unhealthy";
/// Event: a restart waits.
pub const BACK_OFF: &str = "BackOff";
/// Event: a container could not be started.
pub const FAILED: &str = "Failed";
/// Event: the preStop hook went wrong.
pub const FAILED_PRE_STOP: &str = "FailedPreStopHook";
/// Event: the postStart hook went wrong.
pub const FAILED_POST_START: &str = "FailedPostStartHook";
/// Event: a volume of the pod could not be made.
pub const FAILED_MOUNT: &str = "FailedMount";
/// Event: a volume is not all that the manifest asks for.
pub const VOLUME_CAVEAT: &str = "VolumeCaveat";
/// Event and reason of the status: the pod was stopped because it uses more than it may.
pub const EVICTED: &str = "Evicted";
/// Condition: the kubelet has ended the pod.
pub const TERMINATION_BY_KUBELET: &str = "TerminationByKubelet";
/// Event: a pod waits to be emptied by the gateway before it is stopped.
pub const DRAINING: &str = "Draining";
/// Event: the pod's termination gate has a value that no component opens; it is not waited for.
pub const UNKNOWN_GATE: &str = "UnknownGate";
