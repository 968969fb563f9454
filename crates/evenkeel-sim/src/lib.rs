//! The same code under virtual time, with faults.
