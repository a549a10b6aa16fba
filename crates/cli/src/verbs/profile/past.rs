//! `profile --past` and `--compare`: what was measured before.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use wiredflow_core::units::format_duration;
use wiredflow_engine::clock::Clock;
use wiredflow_engine::state::{KeptProfile, StateReader};
use wiredflow_scale::profile::Profile as Measured;

use super::{Profile, view};
use crate::exit::{Exit, Failure, Outcome};
use crate::flow_file;
use crate::live;
use crate::paint::Ink;
use crate::tool::Tool;
use crate::verbs::runs::local;

/// The time that is compared unless another is named.
const USUAL: Duration = Duration::from_secs(3600);

/// A time that was measured.
struct Time {
    begin: Timestamp,
    end: Timestamp,
    profile: Measured,
}

impl Time {
    fn head(&self, word: &str) -> String {
        format!(
            "{word}: {} to {}, {} of it measured",
            local(self.begin),
            local(self.end),
            live::time(self.profile.seconds)
        )
    }

    fn document(&self) -> Result<Value, Failure> {
        let mut document = serde_json::to_value(&self.profile)
            .map_err(|error| Failure::failed(format!("cannot write the profile: {error}")))?;
        document["begin"] = self.begin.to_string().into();
        document["end"] = self.end.to_string().into();
        Ok(document)
    }
}

impl Profile {
    /// Shows what was measured, and the same time earlier.
    pub(super) fn look_back(&self, tool: &Tool) -> Outcome {
        let place = flow_file::state_place(tool, self.file.as_deref())?;
        let told = |error: wiredflow_core::Error| Failure::failed(error.message());
        let reader = StateReader::open(&place.folder, &place.flow).map_err(told)?;
        let long = self.past.unwrap_or(USUAL);
        let before = |now: Timestamp, by: Duration| {
            let by = SignedDuration::try_from(by).unwrap_or(SignedDuration::MAX);
            now.checked_sub(by).unwrap_or(Timestamp::MIN)
        };
        let of = |until: Timestamp| -> Result<Option<Time>, Failure> {
            let kept = reader.profiles(before(until, long), until).map_err(told)?;
            Ok(time_of(kept))
        };
        let now = Clock::real().now();
        let Some(newest) = of(now)? else {
            return Err(Failure::failed(format!(
                "nothing was measured in the last {}: what runs is kept by the minute, when it does something",
                format_duration(long)
            )));
        };
        let Some(earlier) = self.compare else {
            if self.json {
                tool.print_json(&newest.document()?)?;
            } else {
                let out = tool.screen.out();
                let head = out
                    .paint
                    .with(Ink::Bold, &newest.head(&newest.profile.flow));
                let text = view::text(&newest.profile, out.columns(), out.paint);
                tool.screen.print(&format!("{head}\n{text}"))?;
            }
            return Ok(Exit::Done);
        };
        let Some(then) = of(before(now, earlier))? else {
            return Err(Failure::failed(format!(
                "nothing was measured {} earlier; `--past {}` shows the last of it alone",
                format_duration(earlier),
                format_duration(long)
            )));
        };
        if self.json {
            tool.print_json(&json!({"now": newest.document()?, "then": then.document()?}))?;
            return Ok(Exit::Done);
        }
        let out = tool.screen.out();
        let mut lines = vec![
            out.paint.with(Ink::Bold, &newest.head("now")),
            out.paint.with(Ink::Bold, &then.head("then")),
        ];
        lines.extend(view::side_by_side(
            &newest.profile,
            &then.profile,
            out.columns(),
            out.paint,
        ));
        tool.screen.print(&(lines.join("\n") + "\n"))?;
        Ok(Exit::Done)
    }
}

/// The rows as one time.
fn time_of(kept: Vec<KeptProfile>) -> Option<Time> {
    let whole = kept.into_iter().reduce(|all, next| all.and_then(&next))?;
    Some(Time {
        begin: whole.begin,
        end: whole.end,
        profile: Measured::between(None, &whole.figures),
    })
}
