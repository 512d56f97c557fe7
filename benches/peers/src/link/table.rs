//! What was measured, as one table and as JSON.

use std::io::{self, Write};

use peerbuf::device::AdapterKind;
use serde_json::{Value, json};

use super::{Pair, Row, SIZES, figures};
use crate::Outcome;
use crate::figure::{self, Figure};
use crate::measure::Compared;

pub(super) struct Table<'a> {
    pub(super) pair: &'a Pair,
    pub(super) rows: &'a [Row],
}

impl Table<'_> {
    pub(super) fn print(&self, as_json: bool) -> Outcome<()> {
        let mut out = io::stdout().lock();
        if as_json {
            let figures: Vec<_> = figures(self.rows).iter().map(Figure::json).collect();
            let contenders: Vec<_> = self.rows.iter().map(json_of).collect();
            let device = self.devices();
            let all =
                json!({ "schema": 1, "device": device, "figures": figures, "link": contenders });
            writeln!(out, "{all:#}")?;
        } else {
            writeln!(out, "{}\n\n{}", self.devices(), self.text())?;
            write!(out, "{}", figure::Table(&figures(self.rows)))?;
        }
        Ok(())
    }

    fn devices(&self) -> String {
        let describe = |device: &peerbuf::Device| {
            let is_software = device.adapter().kind() == AdapterKind::Cpu;
            let note = if is_software { " (a software device)" } else { "" };
            format!("{}{note}", device.name())
        };
        format!("{} → {}", describe(&self.pair.near), describe(&self.pair.far))
    }

    /// A line for peerbuf, and one for each contender: time at each size, and how many times as long as peerbuf it takes.
    fn text(&self) -> String {
        let mut lines = vec![
            [
                "who".to_owned(),
                "shares in place".to_owned(),
                "copies per byte".to_owned(),
                "memory per byte".to_owned(),
            ]
            .into_iter()
            .chain(SIZES.map(size))
            .collect::<Vec<_>>(),
        ];
        let ours = self.rows.iter().find_map(|row| row.times.as_ref().ok());
        let times = ours.into_iter().flatten().map(|(_, compared)| figure::time(compared.ours));
        let facts = ["peerbuf", "yes", "1", "1"].map(String::from);
        lines.push(facts.into_iter().chain(times).collect());
        for Row { contender, times } in self.rows {
            let facts = [
                contender.name.to_owned(),
                contender.shares.to_owned(),
                contender.copies_per_byte.to_string(),
                contender.memory_per_byte.to_string(),
            ];
            let cells = match times {
                Ok(times) => times.iter().map(|(_, compared)| cell(compared)).collect(),
                Err(error) => vec![format!("none: {error}")],
            };
            lines.push(facts.into_iter().chain(cells).collect());
        }
        let mut text: String =
            lines.iter().map(|line| format!("| {} |\n", line.join(" | "))).collect();
        let rule = "|---".repeat(lines[0].len());
        let header = text.find('\n').map_or(0, |at| at + 1);
        text.insert_str(header, &format!("{rule}|\n"));
        for Row { contender, .. } in self.rows {
            text += &format!("\n{}: {}.", contender.name, contender.how);
        }
        text + "\n"
    }
}

/// A time, and how many times as long as peerbuf's it is.
fn cell(compared: &Compared) -> String {
    format!("{} ({:.2} ×)", figure::time(compared.baseline), compared.ratio.median)
}

fn size(bytes: u64) -> String {
    if bytes < 1 << 20 { format!("{} KiB", bytes >> 10) } else { format!("{} MiB", bytes >> 20) }
}

fn json_of(Row { contender, times }: &Row) -> Value {
    let cells: Vec<_> = times
        .iter()
        .flatten()
        .map(|(size, compared)| {
            json!({
                "size_bytes": size,
                "seconds": compared.baseline,
                "peerbuf_seconds": compared.ours,
                "ratio": compared.ratio.median,
                "lo": compared.ratio.lo,
                "hi": compared.ratio.hi,
            })
        })
        .collect();
    json!({
        "who": contender.name,
        "how": contender.how,
        "shares_in_place": contender.shares,
        "copies_per_byte": contender.copies_per_byte,
        "memory_per_byte": contender.memory_per_byte,
        "cells": cells,
        "error": times.as_ref().err().map(ToString::to_string),
    })
}
