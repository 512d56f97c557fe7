//! What a child is asked, as arguments, and what it answers, as lines.

use std::fmt;
use std::time::Duration;

use crate::transfer::refusal::Route;
use crate::transfer::route_file::{Record, escape, unescape};

/// What a child is asked: to try the routes of one pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    /// The adapters, by their position in the loader's list.
    pub(crate) from: usize,
    pub(crate) to: usize,
    /// Whether both sides are one device.
    pub(crate) same: bool,
    pub(crate) limit: Duration,
    /// The routes that are not to be tried.
    pub(crate) skip: Vec<Route>,
    /// What the parent knows the pair as. If the child knows it as another one, it sees other adapters.
    pub(crate) pair: String,
}

impl Request {
    pub(super) fn arguments(&self) -> Vec<String> {
        let Self { from, to, same, limit, skip, pair } = self;
        let skip: Vec<_> = skip.iter().map(|route| route.name()).collect();
        vec![
            "probe".to_owned(),
            from.to_string(),
            to.to_string(),
            same.to_string(),
            limit.as_millis().to_string(),
            skip.join(","),
            escape(pair),
        ]
    }

    /// The request of arguments after the word `probe`; `None` if they are none.
    pub(crate) fn parse(arguments: &[String]) -> Option<Self> {
        let [from, to, same, limit, skip, pair] = arguments else { return None };
        Some(Self {
            from: from.parse().ok()?,
            to: to.parse().ok()?,
            same: same.parse().ok()?,
            limit: Duration::from_millis(limit.parse().ok()?),
            skip: skip
                .split(',')
                .filter(|name| !name.is_empty())
                .map(route)
                .collect::<Option<_>>()?,
            pair: unescape(pair)?,
        })
    }
}

/// One line of an answer.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Line {
    /// The first line: the program knows what it is asked, and has called no driver yet.
    Started,
    /// The child sees other adapters, or cannot open them.
    Other,
    /// The route that is tried next.
    Trying(Route),
    Tried(Record),
    /// A route that was not tried, and why.
    Untried(Route, String),
    /// The last line.
    Done,
}

impl Line {
    pub(super) fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        Some(match words.next()? {
            "started" => Self::Started,
            "other" => Self::Other,
            "done" => Self::Done,
            "trying" => Self::Trying(route(words.next()?)?),
            "untried" => Self::Untried(route(words.next()?)?, unescape(words.next()?)?),
            "tried" => Self::Tried(Record::parse(line.strip_prefix("tried ")?)?),
            _ => return None,
        })
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Started => f.write_str("started"),
            Self::Other => f.write_str("other"),
            Self::Done => f.write_str("done"),
            Self::Trying(route) => write!(f, "trying {route}"),
            Self::Untried(route, cause) => write!(f, "untried {route} {}", escape(cause)),
            Self::Tried(record) => write!(f, "tried {record}"),
        }
    }
}

fn route(name: &str) -> Option<Route> {
    let all = [Route::Local].into_iter().chain(Route::LADDER.iter().copied());
    all.into_iter().find(|route| route.name() == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_lines_survive() {
        for skip in [vec![], vec![Route::DmaBuf, Route::Local]] {
            let pair = "6.1.0 x".to_owned();
            let limit = Duration::from_millis(750);
            let request = Request { from: 1, to: 20, same: false, limit, skip, pair };
            let arguments = request.arguments();
            assert_eq!(arguments[0], "probe");
            assert_eq!(Request::parse(&arguments[1..]), Some(request));
        }
        let untried = Line::Untried(Route::Memfd, "too busy, too = full".into());
        for line in [Line::Started, Line::Other, Line::Done, Line::Trying(Route::Staged), untried] {
            assert_eq!(Line::parse(&line.to_string()), Some(line));
        }
        assert_eq!(Line::parse("untried memfd"), None);
    }
}
