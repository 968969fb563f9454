//! Every plan, event and condition reason, spelled as upstream spells it where upstream has it.

pub(crate) const SETTLED: &str = "Settled";
pub(crate) const STATUS_CHANGED: &str = "StatusChanged";
pub(crate) const BEING_DELETED: &str = "BeingDeleted";
pub(crate) const SELECTOR_INVALID: &str = "SelectorInvalid";
pub(crate) const CLAIMING: &str = "Claiming";
pub(crate) const PAUSED: &str = "Paused";

// Deployment
pub(crate) const SELECTING_ALL: &str = "SelectingAll";
pub(crate) const SCALING_REPLICA_SET: &str = "ScalingReplicaSet";
pub(crate) const NEW_REPLICA_SET_CREATED: &str = "NewReplicaSetCreated";
pub(crate) const FOUND_NEW_REPLICA_SET: &str = "FoundNewReplicaSet";
pub(crate) const NEW_REPLICA_SET_AVAILABLE: &str = "NewReplicaSetAvailable";
pub(crate) const REPLICA_SET_UPDATED: &str = "ReplicaSetUpdated";
pub(crate) const PROGRESS_DEADLINE_EXCEEDED: &str = "ProgressDeadlineExceeded";
pub(crate) const DEPLOYMENT_PAUSED: &str = "DeploymentPaused";
pub(crate) const DEPLOYMENT_RESUMED: &str = "DeploymentResumed";
pub(crate) const MINIMUM_REPLICAS_AVAILABLE: &str = "MinimumReplicasAvailable";
pub(crate) const MINIMUM_REPLICAS_UNAVAILABLE: &str = "MinimumReplicasUnavailable";
pub(crate) const WAITING_FOR_PODS: &str = "WaitingForPods";
pub(crate) const NAME_TAKEN: &str = "NameTaken";

// ReplicaSet
pub(crate) const SUCCESSFUL_CREATE: &str = "SuccessfulCreate";
pub(crate) const SUCCESSFUL_DELETE: &str = "SuccessfulDelete";

// StatefulSet
pub(crate) const SUCCESSFUL_UPDATE: &str = "SuccessfulUpdate";
pub(crate) const FAILED_CREATE: &str = "FailedCreate";
pub(crate) const WAITING_FOR_CLAIM: &str = "WaitingForClaim";

// Job
pub(crate) const LEFTOVERS: &str = "Leftovers";
pub(crate) const TTL_OVER: &str = "TtlOver";
pub(crate) const BACKING_OFF: &str = "BackingOff";
pub(crate) const COMPLETED: &str = "Completed";
pub(crate) const COMPLETIONS_REACHED: &str = "CompletionsReached";
pub(crate) const SUCCESS_POLICY: &str = "SuccessPolicy";
pub(crate) const POD_FAILURE_POLICY: &str = "PodFailurePolicy";
pub(crate) const BACKOFF_LIMIT_EXCEEDED: &str = "BackoffLimitExceeded";
pub(crate) const DEADLINE_EXCEEDED: &str = "DeadlineExceeded";
pub(crate) const MAX_FAILED_INDEXES_EXCEEDED: &str = "MaxFailedIndexesExceeded";
pub(crate) const FAILED_INDEXES: &str = "FailedIndexes";
pub(crate) const TOO_MANY_SUCCEEDED_PODS: &str = "TooManySucceededPods";
pub(crate) const SUSPENDED: &str = "Suspended";
pub(crate) const RESUMED: &str = "Resumed";

// CronJob
pub(crate) const SAW_COMPLETED_JOB: &str = "SawCompletedJob";
pub(crate) const UNEXPECTED_JOB: &str = "UnexpectedJob";
pub(crate) const MISSING_JOB: &str = "MissingJob";
pub(crate) const MISS_SCHEDULE: &str = "MissSchedule";
pub(crate) const TOO_MANY_MISSED_TIMES: &str = "TooManyMissedTimes";
pub(crate) const JOB_ALREADY_ACTIVE: &str = "JobAlreadyActive";
pub(crate) const UNKNOWN_TIME_ZONE: &str = "UnknownTimeZone";
pub(crate) const UNSUPPORTED_SCHEDULE: &str = "UnsupportedSchedule";
pub(crate) const UNPARSEABLE_SCHEDULE: &str = "UnparseableSchedule";
pub(crate) const INVALID_SCHEDULE: &str = "InvalidSchedule";

// DaemonSet
pub(crate) const FAILED_DAEMON_POD: &str = "FailedDaemonPod";
pub(crate) const SUCCEEDED_DAEMON_POD: &str = "SucceededDaemonPod";

// EndpointSlice
pub(crate) const NOT_MANAGED: &str = "NotManaged";
pub(crate) const ENDPOINTS_CHANGED: &str = "EndpointsChanged";

// PodDisruptionBudget
pub(crate) const SUFFICIENT_PODS: &str = "SufficientPods";
pub(crate) const INSUFFICIENT_PODS: &str = "InsufficientPods";

// Garbage collector
pub(crate) const OWNERS_ALIVE: &str = "OwnersAlive";
pub(crate) const OWNERS_GONE: &str = "OwnersGone";
pub(crate) const DEPENDENTS_FIRST: &str = "DependentsFirst";
pub(crate) const DEPENDENTS_GONE: &str = "DependentsGone";
pub(crate) const ORPHANING: &str = "Orphaning";

// Node lifecycle
pub(crate) const NODE_HEARD: &str = "NodeHeard";
pub(crate) const NODE_SILENT: &str = "NodeSilent";
pub(crate) const NODE_STATUS_UNKNOWN: &str = "NodeStatusUnknown";
pub(crate) const NODE_NOT_READY: &str = "NodeNotReady";
pub(crate) const NODE_TAINTED: &str = "NodeTainted";
pub(crate) const TAINT_EVICTION: &str = "TaintManagerEviction";

// Scheduler
pub(crate) const SCHEDULED: &str = "Scheduled";
pub(crate) const FAILED_SCHEDULING: &str = "FailedScheduling";
pub(crate) const UNSCHEDULABLE: &str = "Unschedulable";
pub(crate) const NOTHING_PENDING: &str = "NothingPending";

// PersistentVolumeClaim, PersistentVolume
pub(crate) const PROTECTING: &str = "Protecting";
pub(crate) const UNUSED: &str = "Unused";
pub(crate) const CLASS_GIVEN: &str = "ClassGiven";
pub(crate) const CLAIM_CREATED: &str = "ClaimCreated";
pub(crate) const BINDING: &str = "Binding";
pub(crate) const RESIZING: &str = "Resizing";
pub(crate) const RECLAIMING: &str = "Reclaiming";
pub(crate) const WAITING_FOR_VOLUME: &str = "WaitingForVolume";
pub(crate) const FAILED_BINDING: &str = "FailedBinding";
pub(crate) const VOLUME_MISMATCH: &str = "VolumeMismatch";
pub(crate) const CLAIM_LOST: &str = "ClaimLost";
pub(crate) const CLAIM_MISBOUND: &str = "ClaimMisbound";
pub(crate) const UNBINDING: &str = "Unbinding";
pub(crate) const WAIT_FOR_FIRST_CONSUMER: &str = "WaitForFirstConsumer";
pub(crate) const WAIT_FOR_POD_SCHEDULED: &str = "WaitForPodScheduled";
pub(crate) const PROVISIONING: &str = "Provisioning";
pub(crate) const PROVISIONING_SUCCEEDED: &str = "ProvisioningSucceeded";
pub(crate) const PROVISIONING_FAILED: &str = "ProvisioningFailed";
pub(crate) const EXTERNAL_PROVISIONING: &str = "ExternalProvisioning";
pub(crate) const VOLUME_FAILED_DELETE: &str = "VolumeFailedDelete";
pub(crate) const VOLUME_FAILED_RECYCLE: &str = "VolumeFailedRecycle";

/// The reason of a Job's failure as a constant, which Events need.
pub(crate) fn of_failure(reason: &str) -> &'static str {
    let known = [
        POD_FAILURE_POLICY,
        BACKOFF_LIMIT_EXCEEDED,
        DEADLINE_EXCEEDED,
        MAX_FAILED_INDEXES_EXCEEDED,
        FAILED_INDEXES,
    ];
    known.into_iter().find(|one| *one == reason).unwrap_or("Failed")
}
