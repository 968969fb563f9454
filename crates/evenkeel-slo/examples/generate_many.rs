//! Measures `slo generate` on many SLOs: `cargo run --release --example generate_many -- 10000`.

#![expect(clippy::print_stdout, reason = "a measuring program")]

use std::fmt::Write;
use std::time::Instant;

use evenkeel_slo::{Input, Options, generate};

fn main() {
    let count: usize = std::env::args().nth(1).and_then(|a| a.parse().ok()).unwrap_or(10_000);
    let mut text = String::new();
    for service in 0..count.div_ceil(10) {
        let _written = write!(
            text,
            "---\napiVersion: sloth.slok.dev/v1\nkind: PrometheusServiceLevel\n\
             metadata: {{name: svc-{service}, namespace: prod}}\nspec:\n  service: svc-{service}\n  \
             labels: {{team: platform, tier: \"1\"}}\n  slos:\n"
        );
        for slo in 0..10.min(count - service * 10) {
            let series = format!("http_request_duration_seconds_count{{job=\"svc-{service}\"");
            let _written = write!(
                text,
                "  - name: slo-{slo}\n    objective: 99.9\n    description: share of good requests\n    \
                 sli:\n      events:\n        \
                 errorQuery: sum(rate({series},path=\"/{slo}\",code=~\"5..\"}}[{{{{.window}}}}]))\n        \
                 totalQuery: sum(rate({series},path=\"/{slo}\"}}[{{{{.window}}}}]))\n    alerting:\n      \
                 name: High\n      pageAlert: {{labels: {{severity: page}}}}\n      \
                 ticketAlert: {{labels: {{severity: ticket}}}}\n"
            );
        }
    }
    let inputs = [Input { name: "many.yaml".to_owned(), text }];
    let start = Instant::now();
    match generate(&inputs, &Options::default()) {
        Ok(output) => {
            let made = start.elapsed();
            let yaml = output.to_yaml();
            let written = start.elapsed();
            println!(
                "{count} SLOs, {} rules, {} MB: {made:?} to rules, {written:?} to YAML",
                output.rules(),
                yaml.len() / 1_000_000
            );
        }
        Err(findings) => println!("{:?}", findings.first()),
    }
}
