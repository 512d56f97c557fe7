//! Faults that tests plant in a run, each in the cells whose name contains a text. With the feature `testing` alone.

use std::str::FromStr;
use std::time::Duration;

use peerbuf::Engine;

/// A fault, and the cells that have it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "testing"), expect(dead_code, reason = "no option plants any"))]
pub(super) struct Plant {
    fault: Fault,
    cells: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "testing"), expect(dead_code, reason = "as above"))]
enum Fault {
    /// A byte of the destination is changed after the copies.
    WrongByte,
    /// The next submission loses its device.
    Lost,
    /// Each copy takes so much longer.
    Slow(Duration),
    /// The process is sent `SIGINT`.
    Interrupt,
}

/// `wrong_byte=TEXT`, `lost=TEXT`, `interrupt=TEXT`, `slow:MICROSECONDS=TEXT`.
impl FromStr for Plant {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, cells) = text.split_once('=').ok_or("no `=`")?;
        let slow = || {
            let micros = name.strip_prefix("slow:")?.parse().ok()?;
            Some(Fault::Slow(Duration::from_micros(micros)))
        };
        let fault = match name {
            "wrong_byte" => Some(Fault::WrongByte),
            "lost" => Some(Fault::Lost),
            "interrupt" => Some(Fault::Interrupt),
            _ => slow(),
        };
        Ok(Self { fault: fault.ok_or("no such fault")?, cells: cells.to_owned() })
    }
}

/// The faults of one cell.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Planted {
    pub(super) wrong_byte: bool,
    pub(super) delay: Duration,
    lost: bool,
    interrupt: bool,
}

impl Planted {
    /// Those of a cell with this name.
    pub(super) fn of(plants: &[Plant], name: &str) -> Self {
        let mut all = Self::default();
        for plant in plants.iter().filter(|plant| name.contains(&plant.cells)) {
            match plant.fault {
                Fault::WrongByte => all.wrong_byte = true,
                Fault::Lost => all.lost = true,
                Fault::Slow(delay) => all.delay = delay,
                Fault::Interrupt => all.interrupt = true,
            }
        }
        all
    }

    /// What happens before the first visit of the cell.
    #[cfg(feature = "testing")]
    pub(super) fn begin(self, engine: &Engine) {
        use peerbuf::ash::vk;
        use peerbuf::device::Call;
        if self.lost {
            engine.calls().fail_nth(Call::QueueSubmit, 1, vk::Result::ERROR_DEVICE_LOST);
        }
        if self.interrupt {
            let this = rustix::process::getpid();
            // If it fails, the run is not interrupted, which the test sees.
            let _ = rustix::process::kill_process(this, rustix::process::Signal::INT);
        }
    }

    /// As with the feature `testing`, without which there are none.
    #[cfg(not(feature = "testing"))]
    pub(super) fn begin(self, _: &Engine) {
        debug_assert!(!self.lost && !self.interrupt, "no option plants any");
    }
}
