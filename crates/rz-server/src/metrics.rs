//! Counters and histograms, as Prometheus reads them.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::backend::{Finish, Stats, Usage};

/// What happened since the server started.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    models: Mutex<Vec<(String, Arc<ModelMetrics>)>>,
    /// Answers by class of status, from 1xx to 5xx.
    responses: [AtomicU64; 5],
    /// Requests that are being answered.
    pub(crate) open: AtomicU64,
}

/// What happened to the requests for one model.
#[derive(Debug)]
pub(crate) struct ModelMetrics {
    first_token: Histogram,
    inter_token: Histogram,
    end_to_end: Histogram,
    queue: Histogram,
    prompt_tokens: AtomicU64,
    cached_tokens: AtomicU64,
    generated_tokens: AtomicU64,
    finished: [AtomicU64; FINISHES.len()],
}

const FINISHES: [&str; 5] = ["stop", "length", "abort", "error", "timeout"];

/// A count of durations by upper bound.
#[derive(Debug)]
struct Histogram {
    bounds: &'static [f64],
    counts: Box<[AtomicU64]>,
    /// Nanoseconds.
    sum: AtomicU64,
}

const SHORT: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.5, 5.0,
    10.0,
];
const LONG: &[f64] = &[
    0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
];

impl Histogram {
    fn new(bounds: &'static [f64]) -> Self {
        Self {
            bounds,
            counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
            sum: AtomicU64::new(0),
        }
    }

    fn add(&self, time: Duration) {
        let seconds = time.as_secs_f64();
        let at = self.bounds.iter().position(|bound| seconds <= *bound).unwrap_or(self.bounds.len());
        self.counts[at].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn write(&self, out: &mut String, name: &str, labels: &str) {
        let mut count = 0;
        for (at, bucket) in self.counts.iter().enumerate() {
            count += bucket.load(Ordering::Relaxed);
            let bound = self.bounds.get(at).map_or("+Inf".to_owned(), f64::to_string);
            let _ = writeln!(out, "{name}_bucket{{{labels},le=\"{bound}\"}} {count}");
        }
        let sum = Duration::from_nanos(self.sum.load(Ordering::Relaxed)).as_secs_f64();
        let _ = writeln!(out, "{name}_sum{{{labels}}} {sum}\n{name}_count{{{labels}}} {count}");
    }
}

impl ModelMetrics {
    fn new() -> Self {
        Self {
            first_token: Histogram::new(LONG),
            inter_token: Histogram::new(SHORT),
            end_to_end: Histogram::new(LONG),
            queue: Histogram::new(LONG),
            prompt_tokens: AtomicU64::new(0),
            cached_tokens: AtomicU64::new(0),
            generated_tokens: AtomicU64::new(0),
            finished: Default::default(),
        }
    }

    pub(crate) fn first_token(&self, after: Duration) {
        self.first_token.add(after);
    }

    pub(crate) fn next_token(&self, after: Duration) {
        self.inter_token.add(after);
    }

    /// A job ended.
    pub(crate) fn finished(&self, finish: &Finish, usage: &Usage, taken: Duration) {
        let reason = match finish {
            Finish::Stop | Finish::StopString(_) => 0,
            Finish::Length => 1,
            Finish::Cancelled => 2,
            Finish::TimeLimit => 4,
        };
        self.finished[reason].fetch_add(1, Ordering::Relaxed);
        self.prompt_tokens.fetch_add(usage.prompt_tokens as u64, Ordering::Relaxed);
        self.cached_tokens.fetch_add(usage.cached_tokens as u64, Ordering::Relaxed);
        self.generated_tokens.fetch_add(usage.completion_tokens as u64, Ordering::Relaxed);
        self.end_to_end.add(taken);
        self.queue.add(usage.queued);
    }

    /// A job came to an end of which nothing is known but that it was not a good one.
    pub(crate) fn broken(&self, failed: bool, taken: Duration) {
        self.finished[if failed { 3 } else { 2 }].fetch_add(1, Ordering::Relaxed);
        self.end_to_end.add(taken);
    }
}

impl Metrics {
    /// Those of one model.
    pub(crate) fn model(&self, name: &str) -> Arc<ModelMetrics> {
        let mut models = self.models.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, metrics)) = models.iter().find(|(known, _)| known == name) {
            return metrics.clone();
        }
        let metrics = Arc::new(ModelMetrics::new());
        models.push((name.to_owned(), metrics.clone()));
        metrics
    }

    pub(crate) fn answered(&self, status: u16) {
        if let Some(count) = self.responses.get((status / 100).wrapping_sub(1) as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Everything as text. `loaded` are the models in memory with how they are doing; `tasks`, those of the runtime.
    pub(crate) fn text(&self, loaded: &[(String, Stats)], healthy: bool, tasks: usize) -> String {
        let mut out = String::new();
        family(&mut out, "rz_healthy", "gauge", "Whether the server answers requests for models");
        let _ = writeln!(out, "rz_healthy {}", u8::from(healthy));
        family(&mut out, "rz_http_requests_open", "gauge", "Requests that are being answered");
        let _ = writeln!(out, "rz_http_requests_open {}", self.open.load(Ordering::Relaxed));
        family(&mut out, "rz_tasks", "gauge", "Tasks of the server: connections, and what they wait for");
        let _ = writeln!(out, "rz_tasks {tasks}");
        family(&mut out, "rz_http_responses_total", "counter", "Answers by class of status");
        for (class, count) in self.responses.iter().enumerate() {
            let _ = writeln!(
                out,
                "rz_http_responses_total{{class=\"{}xx\"}} {}",
                class + 1,
                count.load(Ordering::Relaxed)
            );
        }
        for gauge in GAUGES {
            for name in gauge.names {
                family(&mut out, name, gauge.kind, gauge.help);
                for (model, stats) in loaded {
                    let _ = writeln!(out, "{name}{{{}}} {}", labels(name, model), (gauge.value)(stats));
                }
            }
        }
        const CACHE: &str = "vllm:cache_config_info";
        family(&mut out, CACHE, "gauge", "How the cache is made up");
        for (model, stats) in loaded {
            let (labels, size) = (labels(CACHE, model), stats.block_tokens);
            let _ = writeln!(
                out,
                "{CACHE}{{{labels},block_size=\"{size}\",num_gpu_blocks=\"{}\"}} 1",
                stats.kv_blocks
            );
        }
        const LORA: &str = "vllm:lora_requests_info";
        family(&mut out, LORA, "gauge", "Adapters in use: there are none");
        let _ = writeln!(
            out,
            "{LORA}{{max_lora=\"0\",running_lora_adapters=\"\",waiting_lora_adapters=\"\"}} {}",
            crate::ids::now()
        );
        self.write_requests(&mut out);
        out
    }

    fn write_requests(&self, out: &mut String) {
        let models = self.models.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for histogram in HISTOGRAMS {
            for name in histogram.names {
                family(out, name, "histogram", histogram.help);
                for (model, metrics) in &models {
                    (histogram.of)(metrics).write(out, name, &labels(name, model));
                }
            }
        }
        for counter in COUNTERS {
            for name in counter.names {
                family(out, name, "counter", counter.help);
                for (model, metrics) in &models {
                    let count = (counter.of)(metrics).load(Ordering::Relaxed);
                    let _ = writeln!(out, "{name}{{{}}} {count}", labels(name, model));
                }
            }
        }
        for name in ["rz_requests_total", "vllm:request_success_total"] {
            family(out, name, "counter", "Finished requests by why they ended");
            for (model, metrics) in &models {
                for (reason, count) in FINISHES.iter().zip(&metrics.finished) {
                    let (labels, count) = (labels(name, model), count.load(Ordering::Relaxed));
                    let _ = writeln!(out, "{name}{{{labels},finished_reason=\"{reason}\"}} {count}");
                }
            }
        }
    }
}

struct Gauge {
    names: &'static [&'static str],
    kind: &'static str,
    help: &'static str,
    value: fn(&Stats) -> f64,
}

const GAUGES: &[Gauge] = &[
    Gauge {
        names: &["rz_requests_running", "vllm:num_requests_running"],
        kind: "gauge",
        help: "Sequences that are being worked on",
        value: |stats| stats.running as f64,
    },
    Gauge {
        names: &["rz_requests_waiting", "vllm:num_requests_waiting"],
        kind: "gauge",
        help: "Sequences in the queue",
        value: |stats| stats.waiting as f64,
    },
    Gauge {
        names: &["rz_kv_cache_usage_ratio", "vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"],
        kind: "gauge",
        help: "Share of the cache that is in use, from 0 to 1",
        value: |stats| stats.kv_blocks_used as f64 / stats.kv_blocks.max(1) as f64,
    },
    Gauge {
        names: &[
            "rz_prefix_cache_queries_total",
            "vllm:prefix_cache_queries_total",
            "vllm:gpu_prefix_cache_queries_total",
        ],
        kind: "counter",
        help: "Tokens of prompts that were looked up in the cache",
        value: |stats| stats.prefix_queries as f64,
    },
    Gauge {
        names: &[
            "rz_prefix_cache_hits_total",
            "vllm:prefix_cache_hits_total",
            "vllm:gpu_prefix_cache_hits_total",
        ],
        kind: "counter",
        help: "Tokens of prompts that were found in the cache",
        value: |stats| stats.prefix_hits as f64,
    },
    Gauge {
        names: &["vllm:gpu_prefix_cache_hit_rate"],
        kind: "gauge",
        help: "Share of the tokens of prompts that was found in the cache",
        value: |stats| stats.prefix_hits as f64 / stats.prefix_queries.max(1) as f64,
    },
    Gauge {
        names: &["rz_preemptions_total", "vllm:num_preemptions_total"],
        kind: "counter",
        help: "Sequences that had to start again because the cache was full",
        value: |stats| stats.preemptions as f64,
    },
    Gauge {
        names: &["rz_engine_stalled_seconds"],
        kind: "gauge",
        help: "For how long there has been work without progress",
        value: |stats| stats.stalled.as_secs_f64(),
    },
];

struct HistogramRow {
    names: &'static [&'static str],
    help: &'static str,
    of: fn(&ModelMetrics) -> &Histogram,
}

const HISTOGRAMS: &[HistogramRow] = &[
    HistogramRow {
        names: &["rz_time_to_first_token_seconds", "vllm:time_to_first_token_seconds"],
        help: "Time from a request to its first token",
        of: |metrics| &metrics.first_token,
    },
    HistogramRow {
        names: &["rz_inter_token_latency_seconds", "vllm:inter_token_latency_seconds"],
        help: "Time between the tokens of an answer",
        of: |metrics| &metrics.inter_token,
    },
    HistogramRow {
        names: &["rz_request_seconds", "vllm:e2e_request_latency_seconds"],
        help: "Time from a request to the end of its answer",
        of: |metrics| &metrics.end_to_end,
    },
    HistogramRow {
        names: &["rz_request_queue_seconds", "vllm:request_queue_time_seconds"],
        help: "Time in the queue",
        of: |metrics| &metrics.queue,
    },
];

struct CounterRow {
    names: &'static [&'static str],
    help: &'static str,
    of: fn(&ModelMetrics) -> &AtomicU64,
}

const COUNTERS: &[CounterRow] = &[
    CounterRow {
        names: &["rz_prompt_tokens_total", "vllm:prompt_tokens_total"],
        help: "Tokens of prompts",
        of: |metrics| &metrics.prompt_tokens,
    },
    CounterRow {
        names: &["rz_prompt_tokens_cached_total", "vllm:prompt_tokens_cached_total"],
        help: "Tokens of prompts that did not have to be computed",
        of: |metrics| &metrics.cached_tokens,
    },
    CounterRow {
        names: &["rz_generation_tokens_total", "vllm:generation_tokens_total"],
        help: "Tokens generated",
        of: |metrics| &metrics.generated_tokens,
    },
];

fn family(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

/// The label of a model: `model_name` where others look for it.
fn labels(name: &str, model: &str) -> String {
    let label = if name.starts_with("vllm:") { "model_name" } else { "model" };
    let value = model.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("{label}=\"{value}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histograms_count_upwards_and_end_with_all() {
        let metrics = Metrics::default();
        let model = metrics.model("a\"b");
        for milliseconds in [1, 30, 30, 100_000_000] {
            model.first_token(Duration::from_millis(milliseconds));
        }
        let usage = Usage { prompt_tokens: 5, completion_tokens: 7, ..Usage::default() };
        model.finished(&Finish::Length, &usage, Duration::from_secs(1));
        let text = metrics.text(
            &[("a\"b".into(), Stats { kv_blocks: 4, kv_blocks_used: 1, ..Stats::default() })],
            true,
            3,
        );
        for line in [
            "rz_tasks 3",
            "vllm:time_to_first_token_seconds_bucket{model_name=\"a\\\"b\",le=\"0.01\"} 1",
            "vllm:time_to_first_token_seconds_bucket{model_name=\"a\\\"b\",le=\"0.05\"} 3",
            "vllm:time_to_first_token_seconds_bucket{model_name=\"a\\\"b\",le=\"+Inf\"} 4",
            "rz_time_to_first_token_seconds_count{model=\"a\\\"b\"} 4",
            "vllm:kv_cache_usage_perc{model_name=\"a\\\"b\"} 0.25",
            "vllm:generation_tokens_total{model_name=\"a\\\"b\"} 7",
            "vllm:request_success_total{model_name=\"a\\\"b\",finished_reason=\"length\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }

    #[test]
    fn each_family_is_declared_once_and_before_its_samples() {
        let metrics = Metrics::default();
        metrics.model("m");
        let text = metrics.text(&[("m".into(), Stats::default())], true, 0);
        let mut declared = std::collections::HashSet::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                assert!(declared.insert(rest.split(' ').next().unwrap()), "{line}");
            } else if !line.starts_with('#') {
                let name = line.split(['{', ' ']).next().unwrap();
                let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
                assert!(
                    declared.contains(name) || base.is_some_and(|base| declared.contains(base)),
                    "{line}"
                );
            }
        }
    }
}
