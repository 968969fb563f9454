//! Scraping, the series store and the Prometheus HTTP API.
