//! What the environment says of traces, in the words that all OpenTelemetry programs know.

use std::time::Duration;

use wiredflow_core::{Error, Result};

/// How long a collector may take to answer, where nothing is said: OpenTelemetry's own default.
const TIMEOUT: Duration = Duration::from_secs(10);

/// How traces are sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Where to, with its path.
    pub endpoint: String,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Which traces.
    pub(crate) share: Share,
    /// Whether the environment names the service; else it has the flow's name.
    pub(crate) names_the_service: bool,
}

/// Which part of all traces is sent: those whose lower 63 bits lie below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Share(u64);

impl Share {
    const ALL: Self = Self(1 << 63);
    const NONE: Self = Self(0);

    fn of(ratio: f64) -> Self {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a share between 0 and 1 of 2^63"
        )]
        let below = (ratio * (1_u64 << 63) as f64) as u64;
        Self(below)
    }

    /// Whether a trace belongs to it, as OpenTelemetry's `TraceIdRatioBased` decides.
    pub(crate) fn has(self, trace: u128) -> bool {
        #[expect(clippy::cast_possible_truncation, reason = "the lower half is meant")]
        let low = trace as u64;
        low >> 1 < self.0
    }
}

/// Whether the environment asks for traces.
fn is_wanted(variable: &dyn Fn(&str) -> Option<String>) -> bool {
    let is_off =
        said(variable, "OTEL_SDK_DISABLED").is_some_and(|word| word.eq_ignore_ascii_case("true"));
    let exporter = said(variable, "OTEL_TRACES_EXPORTER");
    !is_off && exporter.as_deref() != Some("none") && endpoint(variable).is_some()
}

impl Settings {
    /// Reads the environment; `None` where it names no collector, or says that nothing is to be sent.
    ///
    /// # Errors
    /// `Config` for a word that is not known, or not built: it is not passed over.
    pub fn read(variable: &dyn Fn(&str) -> Option<String>) -> Result<Option<Self>> {
        if !is_wanted(variable) {
            return Ok(None);
        }
        let Some(endpoint) = endpoint(variable) else {
            return Ok(None);
        };
        known(variable, "OTEL_TRACES_EXPORTER", &["otlp"])?;
        for name in [
            "OTEL_EXPORTER_OTLP_PROTOCOL",
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
        ] {
            known(variable, name, &["http/protobuf"])?;
        }
        for name in [
            "OTEL_EXPORTER_OTLP_COMPRESSION",
            "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION",
        ] {
            known(variable, name, &["none"])?;
        }
        if !endpoint.starts_with("http://") && !endpoint.starts_with("https://") {
            return Err(Error::config(format!(
                "the collector of traces `{endpoint}` is no address: `http://localhost:4318` is one"
            )));
        }
        Ok(Some(Self {
            endpoint,
            timeout: timeout(variable)?,
            share: share(variable)?,
            names_the_service: names_the_service(variable),
        }))
    }
}

fn said(variable: &dyn Fn(&str) -> Option<String>, name: &str) -> Option<String> {
    let text = variable(name)?.trim().to_owned();
    (!text.is_empty()).then_some(text)
}

fn endpoint(variable: &dyn Fn(&str) -> Option<String>) -> Option<String> {
    said(variable, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT").or_else(|| {
        let base = said(variable, "OTEL_EXPORTER_OTLP_ENDPOINT")?;
        Some(format!("{}/v1/traces", base.trim_end_matches('/')))
    })
}

fn known(variable: &dyn Fn(&str) -> Option<String>, name: &str, words: &[&str]) -> Result<()> {
    match said(variable, name) {
        Some(word) if !words.contains(&word.as_str()) => Err(Error::config(format!(
            "`{name}={word}` is not built yet: possible is {}",
            words.join(", ")
        ))),
        Some(_) | None => Ok(()),
    }
}

fn timeout(variable: &dyn Fn(&str) -> Option<String>) -> Result<Duration> {
    let names = [
        "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT",
        "OTEL_EXPORTER_OTLP_TIMEOUT",
    ];
    for name in names {
        if let Some(text) = said(variable, name) {
            let millis = text.parse().ok().filter(|millis| *millis > 0);
            let told = || Error::config(format!("`{name}={text}` is no number of milliseconds"));
            return millis.map(Duration::from_millis).ok_or_else(told);
        }
    }
    Ok(TIMEOUT)
}

/// The sampler. A delivery has no trace around it, so that the samplers that ask for one are like those that do not.
fn share(variable: &dyn Fn(&str) -> Option<String>) -> Result<Share> {
    let Some(sampler) = said(variable, "OTEL_TRACES_SAMPLER") else {
        return Ok(Share::ALL);
    };
    match sampler.trim_start_matches("parentbased_") {
        "always_on" => Ok(Share::ALL),
        "always_off" => Ok(Share::NONE),
        "traceidratio" => {
            let text = said(variable, "OTEL_TRACES_SAMPLER_ARG").unwrap_or_else(|| "1".to_owned());
            let ratio = text
                .parse()
                .ok()
                .filter(|ratio| (0.0..=1.0).contains(ratio));
            let told = || {
                Error::config(format!(
                    "`OTEL_TRACES_SAMPLER_ARG={text}` is no share between 0 and 1"
                ))
            };
            ratio.map(Share::of).ok_or_else(told)
        }
        _ => Err(Error::config(format!(
            "`OTEL_TRACES_SAMPLER={sampler}` is not known: possible are always_on, always_off, traceidratio, and those with `parentbased_` before"
        ))),
    }
}

fn names_the_service(variable: &dyn Fn(&str) -> Option<String>) -> bool {
    let attributes = said(variable, "OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default();
    let mut attributes = attributes.split(',');
    said(variable, "OTEL_SERVICE_NAME").is_some()
        || attributes.any(|attribute| attribute.trim_start().starts_with("service.name="))
}

#[cfg(test)]
mod tests {
    use super::{Settings, Share};

    fn read(variables: &[(&str, &str)]) -> Result<Option<Settings>, String> {
        let find = |name: &str| {
            let mut found = variables.iter().filter(|(known, _)| *known == name);
            found.next().map(|(_, text)| (*text).to_owned())
        };
        Settings::read(&find).map_err(|error| error.message().to_owned())
    }

    const COLLECTOR: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://here:4318/");

    #[test]
    fn nothing_is_sent_where_no_collector_is_named_or_it_is_switched_off() {
        assert_eq!(read(&[]), Ok(None));
        assert_eq!(read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", " ")]), Ok(None));
        assert_eq!(read(&[COLLECTOR, ("OTEL_SDK_DISABLED", "True")]), Ok(None));
        assert_eq!(
            read(&[COLLECTOR, ("OTEL_TRACES_EXPORTER", "none")]),
            Ok(None)
        );
    }

    #[test]
    fn the_signals_own_endpoint_is_taken_as_it_is() {
        let endpoint = |variables: &[_]| read(variables).unwrap().unwrap().endpoint;
        assert_eq!(endpoint(&[COLLECTOR]), "http://here:4318/v1/traces");
        let own = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://there/x");
        assert_eq!(endpoint(&[COLLECTOR, own]), "https://there/x");
    }

    #[test]
    fn what_is_not_known_is_refused_by_name() {
        for (name, word) in [
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "gzip"),
            ("OTEL_TRACES_EXPORTER", "zipkin"),
            ("OTEL_TRACES_SAMPLER", "xray"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s"),
        ] {
            let refused = read(&[COLLECTOR, (name, word)]).unwrap_err();
            assert!(refused.contains(&format!("`{name}={word}`")), "{refused}");
        }
        let ratio = ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio");
        for share in ["1.5", "-0.1", "NaN", "a"] {
            read(&[COLLECTOR, ratio, ("OTEL_TRACES_SAMPLER_ARG", share)]).unwrap_err();
        }
        read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "localhost:4318")]).unwrap_err();
    }

    #[test]
    fn a_share_has_as_many_traces() {
        let share = |sampler, ratio| {
            let variables = [
                COLLECTOR,
                ("OTEL_TRACES_SAMPLER", sampler),
                ("OTEL_TRACES_SAMPLER_ARG", ratio),
            ];
            read(&variables).unwrap().unwrap().share
        };
        let highest = u128::from(u64::MAX);
        assert!(share("always_on", "0").has(highest) && Share::ALL.has(highest));
        assert!(!share("always_off", "1").has(0));
        assert!(share("traceidratio", "1").has(highest));
        assert!(!share("traceidratio", "0").has(0));
        let quarter = share("parentbased_traceidratio", "0.25");
        assert!(quarter.has(highest / 4 - 1) && !quarter.has(highest / 4 + 2));
    }

    #[test]
    fn the_flow_names_the_service_unless_the_environment_does() {
        let named = |variable| {
            read(&[COLLECTOR, variable])
                .unwrap()
                .unwrap()
                .names_the_service
        };
        assert!(named(("OTEL_SERVICE_NAME", "x")));
        assert!(named(("OTEL_RESOURCE_ATTRIBUTES", "a=b, service.name=x")));
        assert!(!named(("OTEL_RESOURCE_ATTRIBUTES", "a=service.name")));
    }
}
