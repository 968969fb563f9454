//! SLOs as Sloth reads them, the error budget, its ledger and its policy.
