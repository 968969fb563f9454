//! Tests against the public face; one binary, so that it is linked once.

#[cfg(test)]
mod alertmanager;
#[cfg(test)]
mod api;
#[cfg(test)]
mod common;
#[cfg(test)]
mod loopback;
#[cfg(test)]
mod rules;
#[cfg(test)]
mod scraping;
