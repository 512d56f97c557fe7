//! What is simulated on which device: the text of `DRIVER_SIM`, and what it means.
//!
//! The text has one of three forms.
//! * A list of rules, separated by spaces: `[DEVICE=]PROFILE[+SWITCH=VALUE…]`. `DEVICE` is the index of a device
//!   in the order of enumeration, or a part of its name or its driver's name. Without it the rule is for all
//!   devices. `PROFILE` may be empty. Examples: `radv`; `0=nvidia 1=radv`; `llvmpipe=radv+max_allocation_count=24`.
//! * A path that ends in `.toml`.
//! * TOML, if it has more than one line or begins with `[`.

mod codes;
mod profiles;
mod size;
mod switches;

pub use codes::{ApiVersion, Code, FamilyFlags, TypeFlags};
pub use profiles::{PROFILES, Profile, profile};
pub use size::Size;
pub use switches::{
    CopyEngine, FailAt, Family, Heap, HostPointer, Identity, Kind, LostWaits, MapImport,
    MemoryLayout, MemoryType, Poison, Switches,
};

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::Table;

/// All rules of one process.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct World {
    /// Devices that are enumerated several times. Copies are listed after all other devices.
    #[serde(default)]
    duplicate: Vec<Duplicate>,
    /// Rules. Where two set the same switch, the later one holds.
    #[serde(default)]
    device: Vec<Rule>,
}

/// A device that is enumerated several times.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Duplicate {
    /// A part of the name of the device or its driver.
    driver: String,
    /// How often it is listed in all.
    #[serde(default = "two")]
    times: u32,
}

fn two() -> u32 {
    2
}

/// Switches for the devices that a rule is for.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    /// Index in the order of enumeration, copies included.
    index: Option<usize>,
    /// A part of the name of the device or its driver, in any case of letters.
    driver: Option<String>,
    /// A profile, or several.
    #[serde(default)]
    profile: Names,
    /// Whether the profile's `identity` holds, too.
    #[serde(default)]
    identity: bool,
    /// Further switches.
    #[serde(default)]
    switches: Table,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Names {
    One(String),
    Many(Vec<String>),
}

impl Default for Names {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

impl Names {
    fn list(&self) -> &[String] {
        match self {
            Self::One(name) => std::slice::from_ref(name),
            Self::Many(names) => names,
        }
    }
}

/// What a rule compares a device with.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// Index in the order of enumeration, copies included.
    pub index: usize,
    /// `deviceName` of the driver.
    pub device: &'a str,
    /// `driverName` of the driver.
    pub driver: &'a str,
}

impl Subject<'_> {
    fn has(&self, part: &str) -> bool {
        let part = part.to_lowercase();
        [self.device, self.driver].iter().any(|name| name.to_lowercase().contains(&part))
    }
}

/// Why a text is no description of a world.
#[derive(Debug)]
pub struct Malformed(String);

impl std::fmt::Display for Malformed {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.write_str(&self.0)
    }
}

impl std::error::Error for Malformed {}

impl World {
    /// Reads a text of one of the three forms.
    ///
    /// # Errors
    /// [`Malformed`] names the line, the rule, the switch or the profile that is wrong.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        let trimmed = text.trim();
        if trimmed.contains('\n') || trimmed.starts_with('[') {
            return Self::from_toml(trimmed);
        }
        if trimmed.ends_with(".toml") {
            let content = std::fs::read_to_string(trimmed)
                .map_err(|error| Malformed(format!("{trimmed}: {error}")))?;
            return Self::from_toml(&content);
        }
        let rules = split(trimmed, char::is_whitespace)
            .into_iter()
            .filter(|rule| !rule.is_empty())
            .map(Rule::parse)
            .collect::<Result<_, _>>()?;
        Self { duplicate: Vec::new(), device: rules }.checked()
    }

    fn from_toml(text: &str) -> Result<Self, Malformed> {
        toml::from_str::<Self>(text).map_err(|error| Malformed(error.to_string()))?.checked()
    }

    /// A misspelt switch is an error, also in a rule that is for no device here.
    fn checked(self) -> Result<Self, Malformed> {
        for rule in &self.device {
            rule.table()?.try_into::<Switches>().map_err(|error| Malformed(error.to_string()))?;
        }
        Ok(self)
    }

    /// How often the device is listed in all.
    #[must_use]
    pub fn times(&self, subject: Subject<'_>) -> u32 {
        self.duplicate
            .iter()
            .filter(|rule| subject.has(&rule.driver))
            .map(|rule| rule.times)
            .max()
            .unwrap_or(1)
    }

    /// The switches of a device, after those of `later`, which hold over those of `self`.
    ///
    /// # Errors
    /// [`Malformed`] if two rules cannot be combined.
    pub fn switches(
        &self,
        subject: Subject<'_>,
        later: Option<&World>,
    ) -> Result<Switches, Malformed> {
        let mut all = Table::new();
        for rule in self.device.iter().chain(later.into_iter().flat_map(|world| &world.device)) {
            if rule.is_for(subject) {
                merge(&mut all, rule.table()?);
            }
        }
        all.try_into().map_err(|error: toml::de::Error| Malformed(error.to_string()))
    }
}

impl Rule {
    fn parse(text: &str) -> Result<Self, Malformed> {
        let mut parts = split(text, |c| c == '+').into_iter();
        let head = parts.next().unwrap_or_default();
        let (device, name) = match head.split_once('=') {
            Some((device, name)) => (Some(device), name),
            None => (None, head),
        };
        let mut rule = Self::default();
        match device.map(|device| (device, device.parse())) {
            Some((_, Ok(index))) => rule.index = Some(index),
            Some((part, Err(_))) => rule.driver = Some(part.to_owned()),
            None => {}
        }
        if !name.is_empty() {
            rule.profile = Names::One(name.to_owned());
        }
        for part in parts {
            let (switch, value) = part.split_once('=').unwrap_or((part, "true"));
            let value = format!("x = {value}")
                .parse::<Table>()
                .ok()
                .and_then(|mut table| table.remove("x"))
                .unwrap_or_else(|| toml::Value::String(value.to_owned()));
            rule.switches.insert(switch.to_owned(), value);
        }
        Ok(rule)
    }

    fn is_for(&self, subject: Subject<'_>) -> bool {
        self.index.is_none_or(|index| index == subject.index)
            && self.driver.as_deref().is_none_or(|part| subject.has(part))
    }

    fn table(&self) -> Result<Table, Malformed> {
        let mut all = Table::new();
        for name in self.profile.list() {
            let mut table = file_of(name)?.switches;
            if !self.identity {
                table.remove("identity");
            }
            merge(&mut all, table);
        }
        merge(&mut all, self.switches.clone());
        Ok(all)
    }
}

/// A profile's file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProfileFile {
    /// What it stands for.
    pub about: String,
    /// Its switches.
    #[serde(default)]
    pub switches: Table,
    /// Tests that cannot hold under the profile, each with the reason, by the name of the suite.
    #[serde(default)]
    pub excluded: BTreeMap<String, BTreeMap<String, String>>,
}

/// Reads a profile by its name.
///
/// # Errors
/// [`Malformed`] if there is none of this name.
pub fn file_of(name: &str) -> Result<ProfileFile, Malformed> {
    let known = || PROFILES.iter().map(|profile| profile.name).collect::<Vec<_>>().join(", ");
    let profile = profile(name).ok_or_else(|| {
        Malformed(format!("there is no profile \"{name}\"; there are {}", known()))
    })?;
    toml::from_str(profile.text).map_err(|error| Malformed(format!("profile {name}: {error}")))
}

/// Splits a text outside of quotes and brackets.
fn split(text: &str, at: impl Fn(char) -> bool) -> Vec<&str> {
    let (mut parts, mut begin, mut depth, mut quote) = (Vec::new(), 0, 0_u32, None);
    for (index, c) in text.char_indices() {
        match (quote, c) {
            (Some(open), _) if open == c => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '[' | '{') => depth += 1,
            (None, ']' | '}') => depth = depth.saturating_sub(1),
            (None, _) if depth == 0 && at(c) => {
                parts.push(&text[begin..index]);
                begin = index + c.len_utf8();
            }
            (None, _) => {}
        }
    }
    parts.push(&text[begin..]);
    parts
}

fn merge(all: &mut Table, later: Table) {
    for (key, value) in later {
        match (all.get_mut(&key), value) {
            (Some(toml::Value::Table(old)), toml::Value::Table(new)) if key == "identity" => {
                old.extend(new);
            }
            (_, value) => {
                all.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(index: usize, device: &str) -> Subject<'_> {
        Subject { index, device, driver: "driver" }
    }

    fn switches(text: &str, subject: Subject<'_>) -> Switches {
        World::parse(text).and_then(|world| world.switches(subject, None)).expect(text)
    }

    #[test]
    fn every_profile_is_well_formed_and_says_what_it_is() {
        for profile in PROFILES {
            let file = file_of(profile.name).expect(profile.name);
            assert!(!file.about.is_empty(), "{}", profile.name);
            file.switches.try_into::<Switches>().expect(profile.name);
            assert!(
                file.excluded.values().flatten().all(|(_, reason)| !reason.is_empty()),
                "{}: an exclusion without a reason",
                profile.name
            );
        }
    }

    #[test]
    fn a_rule_is_for_an_index_a_name_or_all() {
        let text = "0=+max_allocation_count=3 swift=+heap_size=48M +no_sync_fd";
        let first = switches(text, subject(0, "llvmpipe"));
        assert_eq!(first.max_allocation_count, Some(3));
        assert_eq!(first.heap_size, None);
        assert!(first.no_sync_fd);
        let second = switches(text, subject(1, "SwiftShader Device"));
        assert_eq!(second.max_allocation_count, None);
        assert_eq!(second.heap_size, Some(Size(48 << 20)));
    }

    #[test]
    fn the_later_rule_holds() {
        let text = "+max_allocation_count=3 +max_allocation_count=4";
        assert_eq!(switches(text, subject(0, "x")).max_allocation_count, Some(4));
    }

    #[test]
    fn a_misspelt_switch_or_profile_is_an_error() {
        for text in
            ["+max_alocation=3", "no-such-profile", "[[device]]\nswitch = 1", "5=+no_sync_fd=3"]
        {
            assert!(World::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn toml_has_rules_and_duplicates() {
        let text = "[[duplicate]]\ndriver = 'pipe'\n[[device]]\nindex = 1\nswitches.max_allocation = '4 GiB - 4'\n";
        let world = World::parse(text).expect(text);
        assert_eq!(world.times(subject(0, "llvmpipe")), 2);
        assert_eq!(world.times(subject(0, "SwiftShader")), 1);
        let switches = world.switches(subject(1, "x"), None).expect(text);
        assert_eq!(switches.max_allocation, Some(Size((4 << 30) - 4)));
    }
}
