//! Time, units, ids and seeded random numbers. No I/O, no async.
