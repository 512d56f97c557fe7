//! One line of the file: what is known of one route of one pair.
//!
//! A line is made of words `name=value`, and ends with the word `end`: one that was cut is not taken for a whole one.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ash::vk;

use super::escape::{escape, unescape};
use crate::device::HandleType;
use crate::memory::ImportKind;
use crate::transfer::pair_key::{AdapterKey, PairKey};
use crate::transfer::pass::{Pass, Side};
use crate::transfer::refusal::{Refusal, RefusalReason, Route};
use crate::transfer::verdict::{ExporterSpeed, Trial, Verdict, Working};

/// What is known of one route of one pair.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::transfer) struct Record {
    pub(in crate::transfer) pair: String,
    pub(in crate::transfer) result: Result<Working, Refusal>,
    pub(in crate::transfer) trial: Trial,
}

/// The calls that report the loss of a device.
const CALLS: [&str; 3] = ["vkQueueSubmit", "vkWaitSemaphores", "vkGetSemaphoreCounterValue"];

impl Record {
    /// The routes that this engine has tried. What drivers report of the others is asked each time.
    pub(in crate::transfer) fn of_verdict<'a>(
        pair: &'a str,
        verdict: &'a Verdict,
    ) -> impl Iterator<Item = Self> + 'a {
        let tried = verdict.trials.iter().filter(|trial| !trial.remembered);
        tried.filter_map(move |trial| {
            let working = verdict.working.iter().find(|working| working.route == trial.route);
            let refused = verdict.refused.iter().find(|refusal| refusal.route == trial.route);
            let result = match (working, refused) {
                (Some(working), _) => Ok(*working),
                (None, refused) => {
                    Err(refused.filter(|refusal| is_found(&refusal.reason))?.clone())
                }
            };
            Some(Self { pair: pair.to_owned(), result, trial: trial.clone() })
        })
    }

    /// Whether both are about the same route of the same pair.
    pub(super) fn is_of_route(&self, other: &Self) -> bool {
        self.pair == other.pair && self.trial.route == other.trial.route
    }

    /// The record of a line; `None` if it is none.
    pub(in crate::transfer) fn parse(line: &str) -> Option<Self> {
        let words = line.strip_suffix(" end")?.split(' ');
        let fields = Fields(words.map(|word| word.split_once('=')).collect::<Option<_>>()?);
        let route = fields.named("route", Route::name, &all_routes())?;
        let passes = fields.get("passes")?;
        let pass = |name: &str| Pass::ALL.iter().copied().find(|pass| pass.name() == name);
        let trial = Trial {
            route,
            bytes: fields.number("bytes")?,
            passes: passes
                .split(',')
                .filter(|name| !name.is_empty())
                .map(pass)
                .collect::<Option<_>>()?,
            at: UNIX_EPOCH.checked_add(Duration::from_secs(fields.number("at")?))?,
            remembered: true,
        };
        let result = match fields.get("result")?.as_str() {
            "works" => Ok(fields.working(route, trial.bytes)?),
            name => Err(Refusal { route, reason: fields.reason(name)? }),
        };
        Some(Self { pair: fields.get("pair")?, result, trial })
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Trial { route, bytes, passes, at, .. } = &self.trial;
        let passes: Vec<_> = passes.iter().map(|pass| pass.name()).collect();
        write!(
            f,
            "pair={} route={route} bytes={bytes} passes={} at={} ",
            escape(&self.pair),
            passes.join(","),
            seconds(*at)
        )?;
        match &self.result {
            Ok(working) => write_working(f, working)?,
            Err(refusal) => write_reason(f, &refusal.reason)?,
        }
        f.write_str(" end")
    }
}

fn write_working(f: &mut fmt::Formatter<'_>, working: &Working) -> fmt::Result {
    let import = match working.import {
        None => "none",
        Some(ImportKind::HostPointer) => "address",
        Some(ImportKind::Fd(handle)) => handle.name(),
    };
    write!(f, "result=works read={} import={import}", working.read.as_nanos())?;
    if let Some(ExporterSpeed { before, after, alone }) = working.exporter {
        let [before, after, alone] = [before, after, alone].map(|time| time.as_nanos());
        write!(f, " before={before} after={after} alone={alone}")?;
    }
    Ok(())
}

/// Whether the reason was found out by a trial, so that it is worth remembering.
fn is_found(reason: &RefusalReason) -> bool {
    use RefusalReason as Reason;
    matches!(
        reason,
        Reason::NoExportableMemory { .. }
            | Reason::ImportFailed { .. }
            | Reason::SubmissionFailed { .. }
            | Reason::DeviceLost { .. }
            | Reason::Hung { .. }
            | Reason::Crashed { .. }
            | Reason::NeverReturned { .. }
            | Reason::WrongBytes { .. }
            | Reason::Failed(_)
    )
}

fn write_reason(f: &mut fmt::Formatter<'_>, reason: &RefusalReason) -> fmt::Result {
    use RefusalReason as Reason;
    match reason {
        Reason::NoExportableMemory { bytes, code } => {
            write!(f, "result=no_export size={bytes} code={}", code.as_raw())
        }
        Reason::ImportFailed { side, bytes, code } => {
            write!(f, "result=no_import side={side} size={bytes} code={}", code.as_raw())
        }
        Reason::SubmissionFailed { side, code, control } => {
            let (code, control) = (code.as_raw(), control.as_nanos());
            write!(f, "result=no_submission side={side} code={code} control={control}")
        }
        Reason::DeviceLost { side, call, control } => {
            write!(f, "result=loses_device side={side} call={call} control={}", control.as_nanos())
        }
        Reason::Hung { side, after, control } => {
            let (after, control) = (after.as_nanos(), control.as_nanos());
            write!(f, "result=hangs side={side} waited={after} control={control}")
        }
        Reason::Crashed { how } => write!(f, "result=crashes why={}", escape(how)),
        Reason::NeverReturned { after } => write!(f, "result=never waited={}", after.as_nanos()),
        Reason::WrongBytes { pass, words, wrong, first_wrong } => {
            let pass = pass.name();
            write!(f, "result=wrong pass={pass} words={words} wrong={wrong} first={first_wrong}")
        }
        other => write!(f, "result=failed why={}", escape(&other.to_string())),
    }
}

/// The words of a line.
struct Fields<'a>(Vec<(&'a str, &'a str)>);

impl Fields<'_> {
    fn get(&self, name: &str) -> Option<String> {
        let (_, value) = self.0.iter().find(|(of, _)| *of == name)?;
        unescape(value)
    }

    fn number<N: FromStr>(&self, name: &str) -> Option<N> {
        self.get(name)?.parse().ok()
    }

    fn time(&self, name: &str) -> Option<Duration> {
        self.number(name).map(Duration::from_nanos)
    }

    /// The one of `all` that has the name.
    fn named<T: Copy>(
        &self,
        field: &str,
        name: impl Fn(T) -> &'static str,
        all: &[T],
    ) -> Option<T> {
        let value = self.get(field)?;
        all.iter().copied().find(|one| name(*one) == value)
    }

    fn side(&self) -> Option<Side> {
        let value = self.get("side")?;
        [Side::First, Side::Second].into_iter().find(|side| side.to_string() == value)
    }

    fn code(&self) -> Option<vk::Result> {
        self.number("code").map(vk::Result::from_raw)
    }

    fn working(&self, route: Route, bytes: u64) -> Option<Working> {
        let import = match self.get("import")?.as_str() {
            "none" => None,
            "address" => Some(ImportKind::HostPointer),
            _ => Some(ImportKind::Fd(self.named("import", HandleType::name, HandleType::ALL)?)),
        };
        let times = [self.time("before"), self.time("after"), self.time("alone")];
        let exporter = match times {
            [Some(before), Some(after), Some(alone)] => {
                Some(ExporterSpeed { before, after, alone })
            }
            _ => None,
        };
        Some(Working { route, read: self.time("read")?, bytes, exporter, import })
    }

    fn reason(&self, name: &str) -> Option<RefusalReason> {
        use RefusalReason as Reason;
        let control = || self.time("control");
        Some(match name {
            "no_export" => {
                Reason::NoExportableMemory { bytes: self.number("size")?, code: self.code()? }
            }
            "no_import" => {
                let (side, bytes, code) = (self.side()?, self.number("size")?, self.code()?);
                Reason::ImportFailed { side, bytes, code }
            }
            "no_submission" => {
                let (side, code, control) = (self.side()?, self.code()?, control()?);
                Reason::SubmissionFailed { side, code, control }
            }
            "loses_device" => {
                let (side, control) = (self.side()?, control()?);
                let call = self.named("call", |call| call, &CALLS)?;
                Reason::DeviceLost { side, call, control }
            }
            "hangs" => {
                let (side, after, control) = (self.side()?, self.time("waited")?, control()?);
                Reason::Hung { side, after, control }
            }
            "crashes" => Reason::Crashed { how: self.get("why")? },
            "never" => Reason::NeverReturned { after: self.time("waited")? },
            "wrong" => Reason::WrongBytes {
                pass: self.named("pass", Pass::name, Pass::ALL)?,
                words: self.number("words")?,
                wrong: self.number("wrong")?,
                first_wrong: self.number("first")?,
            },
            "failed" => Reason::Failed(self.get("why")?),
            _ => return None,
        })
    }
}

fn all_routes() -> Vec<Route> {
    [Route::Local].into_iter().chain(Route::LADDER.iter().copied()).collect()
}

fn seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

impl PairKey {
    /// The pair as text, with the kernel's release: what a line must be about to count.
    pub(in crate::transfer) fn text(&self, kernel: &str) -> String {
        let Self { from, to, same_device } = self;
        format!("{kernel}/{}/{}/{}", from.text(), to.text(), u8::from(*same_device))
    }
}

impl AdapterKey {
    /// The position in the loader's list counts only for adapters that have no address: it changes with the
    /// environment.
    fn text(&self) -> String {
        let Self { index, pci, drm, device, driver, version, enabled, families } = self;
        let drm = drm.map(|node| node.map(|node| format!("{}:{}", node.major, node.minor)));
        let place = match (pci, &drm) {
            (None, [None, None]) => format!("index{index}"),
            _ => {
                let pci = pci.map(|pci| pci.to_string());
                let [render, primary] = drm;
                [pci, render, primary].map(Option::unwrap_or_default).join(",")
            }
        };
        let enabled: String = enabled.iter().map(|on| if *on { '1' } else { '0' }).collect();
        format!("{place}/{device}/{driver}/{version}/{enabled}/{families:?}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(result: Result<Working, RefusalReason>) -> Record {
        let route = Route::DmaBuf;
        let at = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let passes = vec![Pass::FirstToSecond, Pass::Moves];
        let trial = Trial { route, bytes: 1 << 20, passes, at, remembered: true };
        let result = result.map_err(|reason| Refusal { route, reason });
        Record { pair: "6.1.0 x/→".into(), result, trial }
    }

    fn all() -> Vec<Record> {
        let (side, control) = (Side::Second, Duration::from_nanos(1234));
        let code = vk::Result::ERROR_OUT_OF_HOST_MEMORY;
        let working = |exporter, import| Working {
            route: Route::DmaBuf,
            read: Duration::from_micros(7),
            bytes: 1 << 20,
            exporter,
            import,
        };
        let [before, after, alone] = [1, 30, 2].map(Duration::from_micros);
        let reasons = [
            RefusalReason::NoExportableMemory { bytes: 5, code },
            RefusalReason::ImportFailed { side, bytes: 5, code },
            RefusalReason::SubmissionFailed { side, code, control },
            RefusalReason::DeviceLost { side, call: "vkQueueSubmit", control },
            RefusalReason::Hung { side, after, control },
            RefusalReason::WrongBytes { pass: Pass::Moves, words: 9, wrong: 3, first_wrong: 4 },
            RefusalReason::Failed("a = b\nc".into()),
            RefusalReason::Crashed { how: "signal 11".into() },
            RefusalReason::NeverReturned { after },
        ];
        let works = [
            working(None, Some(ImportKind::Fd(HandleType::DmaBuf))),
            working(Some(ExporterSpeed { before, after, alone }), Some(ImportKind::HostPointer)),
            working(None, None),
        ];
        works
            .map(|working| record(Ok(working)))
            .into_iter()
            .chain(reasons.map(|r| record(Err(r))))
            .collect()
    }

    #[test]
    fn every_record_survives() {
        for record in all() {
            let line = record.to_string();
            assert!(!line.contains('\n'), "{line}");
            assert_eq!(Record::parse(&line), Some(record), "{line}");
        }
    }

    #[test]
    fn a_line_that_was_cut_is_no_record() {
        for record in all() {
            let line = record.to_string();
            for (at, _) in line.char_indices() {
                assert_eq!(Record::parse(&line[..at]), None, "{}", &line[..at]);
            }
        }
    }
}
