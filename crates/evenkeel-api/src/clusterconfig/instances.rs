//! What common EC2 instance types have.

/// What a machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Thousandths of a virtual processor.
    pub cpu_millis: u64,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Pods that can have an address.
    pub pods: u64,
    /// Root volume in GiB.
    pub disk_gib: u64,
}

impl Capacity {
    /// What is left for pods.
    ///
    /// **Source**: kube-reserved and the eviction threshold as EKS' bootstrap sets them:
    /// 255 MiB + 11 MiB per pod + 100 MiB, and 6 %, 1 %, 0.5 %, 0.5 %, 0.25 % ... of the cores.
    #[must_use]
    pub fn allocatable(self) -> Self {
        let memory = 255 + 11 * self.pods + 100;
        let cores = self.cpu_millis / 1_000;
        let reserved_tenths: u64 = (0..cores)
            .map(|core| match core {
                0 => 600,
                1 => 100,
                2 | 3 => 50,
                _ => 25,
            })
            .sum();
        Self {
            cpu_millis: self.cpu_millis.saturating_sub(reserved_tenths / 10),
            memory_mib: self.memory_mib.saturating_sub(memory),
            ..self
        }
    }
}

/// Root volume that eksctl gives a node.
const DISK_GIB: u64 = 80;

/// Families whose sizes follow the rule 2 processors for `large`, 4 for `xlarge`, 4 n for
/// `nxlarge`; with MiB per processor.
const REGULAR: [(&str, u64); 48] = [
    ("m4", 4096),
    ("m5", 4096),
    ("m5a", 4096),
    ("m5ad", 4096),
    ("m5d", 4096),
    ("m5dn", 4096),
    ("m5n", 4096),
    ("m6a", 4096),
    ("m6g", 4096),
    ("m6gd", 4096),
    ("m6i", 4096),
    ("m6id", 4096),
    ("m6in", 4096),
    ("m7a", 4096),
    ("m7g", 4096),
    ("m7i", 4096),
    ("m7i-flex", 4096),
    ("m8g", 4096),
    ("c5", 2048),
    ("c5a", 2048),
    ("c5ad", 2048),
    ("c5d", 2048),
    ("c5n", 2688),
    ("c6a", 2048),
    ("c6g", 2048),
    ("c6gd", 2048),
    ("c6gn", 2048),
    ("c6i", 2048),
    ("c6in", 2048),
    ("c7a", 2048),
    ("c7g", 2048),
    ("c7i", 2048),
    ("c7i-flex", 2048),
    ("c8g", 2048),
    ("r5", 8192),
    ("r5a", 8192),
    ("r5b", 8192),
    ("r5d", 8192),
    ("r5n", 8192),
    ("r6a", 8192),
    ("r6g", 8192),
    ("r6i", 8192),
    ("r7a", 8192),
    ("r7g", 8192),
    ("r7i", 8192),
    ("r8g", 8192),
    ("i4i", 8192),
    ("g4dn", 4096),
];

/// Types off the rule: processors, MiB, pods.
const SPECIAL: [(&str, u64, u64, u64); 13] = [
    ("nano", 2, 512, 4),
    ("micro", 2, 1_024, 4),
    ("small", 2, 2_048, 11),
    ("medium", 2, 4_096, 17),
    ("large", 2, 8_192, 35),
    ("xlarge", 4, 16_384, 58),
    ("2xlarge", 8, 32_768, 58),
    ("g5.xlarge", 4, 16_384, 58),
    ("g5.2xlarge", 8, 32_768, 58),
    ("p3.2xlarge", 8, 62_464, 58),
    ("p3.8xlarge", 32, 249_856, 234),
    ("p3.16xlarge", 64, 499_712, 234),
    ("p3dn.24xlarge", 96, 786_432, 737),
];

/// Families of the burstable kind, which share their sizes.
const BURSTABLE: [&str; 3] = ["t3", "t3a", "t4g"];

/// What an instance type has; `None` when it is not known here.
pub(crate) fn capacity(instance_type: &str) -> Option<Capacity> {
    let (family, size) = instance_type.split_once('.')?;
    let name = if BURSTABLE.contains(&family) { size } else { instance_type };
    if let Some((_, cores, memory_mib, pods)) = SPECIAL.iter().find(|(known, ..)| *known == name) {
        return Some(of(*cores, *memory_mib, *pods));
    }
    let (_, mib_per_core) = REGULAR.iter().find(|(known, _)| *known == family)?;
    let cores = match size {
        "medium" if is_arm(instance_type) => 1,
        "large" => 2,
        "xlarge" => 4,
        _ => {
            4 * size.strip_suffix("xlarge")?.parse::<u64>().ok().filter(|n| (2..=48).contains(n))?
        }
    };
    // Addresses per network interface: amazon-vpc-cni's table for Nitro machines.
    let pods = match cores {
        1 => 8,
        2 => 29,
        4 | 8 => 58,
        16..=48 => 234,
        _ => 737,
    };
    Some(of(cores, cores * mib_per_core, pods))
}

/// What is assumed of a type that is not known: an `m5.large`.
pub(crate) fn assumed() -> Capacity {
    of(2, 8_192, 29)
}

/// Whether a type has Arm processors: a `g` after the generation's number.
pub(crate) fn is_arm(instance_type: &str) -> bool {
    let family = instance_type.split('.').next().unwrap_or_default();
    let after_number = family.trim_start_matches(|c: char| !c.is_ascii_digit());
    after_number.trim_start_matches(|c: char| c.is_ascii_digit()).starts_with('g')
}

fn of(cores: u64, memory_mib: u64, pods: u64) -> Capacity {
    Capacity { cpu_millis: cores * 1_000, memory_mib, pods, disk_gib: DISK_GIB }
}
