//! The devices that take part in a command: adapters of this machine, opened.

use std::path::Path;
use std::time::Duration;

use peerbuf::{Adapter, AdapterSelector, Device, Engine, EngineDescriptor, Error};

use crate::failure::Failure;

/// An engine, and the devices that were opened for a command, in order.
#[derive(Debug)]
pub(crate) struct Lineup {
    pub(crate) engine: Engine,
    pub(crate) devices: Vec<Device>,
    /// The longest that a wait for a device may take.
    pub(crate) timeout: Duration,
    /// Adapters that cannot take part, with what they lack.
    pub(crate) unusable: Vec<(Adapter, String)>,
}

impl Lineup {
    /// Opens the selected adapters; if none is selected, every adapter that can be opened. A single one is
    /// opened twice. If `trace` is given, the engine writes its trace there.
    ///
    /// # Errors
    ///
    /// Those of opening a device, for a selected adapter. Adapters that were not selected and cannot be
    /// opened are in [`Lineup::unusable`].
    pub(crate) fn open(
        selected: &[AdapterSelector],
        timeout: Duration,
        trace: Option<&Path>,
    ) -> Result<Self, Failure> {
        let mut descriptor = EngineDescriptor::new().timeout(timeout);
        if let Some(file) = trace {
            descriptor = descriptor.trace(file);
        }
        let engine = Engine::open(&descriptor).map_err(|error| Failure::opening(error, trace))?;
        let mut this = Self { engine, devices: vec![], timeout, unusable: vec![] };
        if selected.is_empty() {
            this.open_all()?;
        } else {
            this.open_selected(selected)?;
        }
        if let [only] = &this.devices[..] {
            let again = this.engine.open_device(only.adapter())?;
            this.devices.push(again);
        }
        Ok(this)
    }

    /// All ordered pairs of different devices, by position.
    pub(crate) fn pairs(&self) -> impl Iterator<Item = (usize, usize)> {
        let count = self.devices.len();
        (0..count).flat_map(move |from| {
            (0..count).filter(move |to| *to != from).map(move |to| (from, to))
        })
    }

    fn open_selected(&mut self, selected: &[AdapterSelector]) -> Result<(), Failure> {
        for selector in selected {
            let adapter = self
                .engine
                .adapter(*selector)
                .map_err(|_| Failure::selecting(*selector, self.engine.adapters()))?;
            self.devices.push(self.engine.open_device(adapter)?);
        }
        Ok(())
    }

    fn open_all(&mut self) -> Result<(), Failure> {
        for adapter in self.engine.adapters() {
            if let Some(why) = adapter.why_unusable() {
                self.unusable.push((adapter.clone(), why));
                continue;
            }
            match self.engine.open_device(adapter) {
                Ok(device) => self.devices.push(device),
                // The next one would fail for the same reason.
                Err(error @ Error::FdLimit { .. }) => return Err(error.into()),
                Err(error) => self.unusable.push((adapter.clone(), without_name(&error, adapter))),
            }
        }
        if self.devices.is_empty() {
            let line = |(adapter, why): &(Adapter, String)| format!("{}: {why}", adapter.name());
            return Err(Failure::NothingOpens { why: self.unusable.iter().map(line).collect() });
        }
        Ok(())
    }
}

/// An error of a device in one line, without the name of the device, which is printed beside it.
pub(crate) fn without_name(error: &Error, adapter: &Adapter) -> String {
    let text = error.with_causes();
    let rest = text.strip_prefix(adapter.name());
    rest.map_or(text.as_str(), |rest| rest.trim_start_matches([':', ' '])).to_owned()
}
