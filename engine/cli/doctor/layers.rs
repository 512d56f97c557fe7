//! Layers that the loader puts between the program and its drivers.

use std::env;

use serde_json::Value;

use super::manifests::{self, Manifest, is_listed};
use super::report::{Finding, LayerFacts};

const AREA: &str = "layers";

/// Layers that drivers install with themselves, and that change the order of devices alone.
const HARMLESS: [&str; 1] = ["VK_LAYER_MESA_device_select"];

/// The active layers, and what they mean for a report.
pub(super) fn find() -> (Vec<LayerFacts>, Vec<Finding>) {
    let mut active = Vec::new();
    let mut findings = Vec::new();
    let forced = env::var("VK_INSTANCE_LAYERS").unwrap_or_default();
    let forced: Vec<_> = forced.split(':').filter(|name| !name.is_empty()).collect();
    for (kind, is_implicit) in [("implicit_layer.d", true), ("explicit_layer.d", false)] {
        for manifest in manifests::layers(kind) {
            if let Err(error) = &manifest.content {
                findings.push(Finding::note(
                    AREA,
                    format!("{}: {error}", manifest.file.display()),
                    "mend or remove the file; some loaders give up because of it",
                ));
            }
            for layer in layers_of(&manifest) {
                let Some(name) = layer.get("name").and_then(Value::as_str) else { continue };
                let why = if forced.contains(&name) {
                    Some("VK_INSTANCE_LAYERS names it".to_owned())
                } else if is_implicit {
                    implicit(layer, name)
                } else {
                    is_listed("VK_LOADER_LAYERS_ENABLE", name)
                        .then(|| "VK_LOADER_LAYERS_ENABLE names it".to_owned())
                };
                if let Some(why) = why {
                    let manifest = manifest.file.display().to_string();
                    active.push(LayerFacts { name: name.to_owned(), manifest, why });
                }
            }
        }
    }
    for LayerFacts { name, why, .. } in &active {
        if HARMLESS.contains(&name.as_str()) {
            findings.push(Finding::ok(AREA, format!("{name} is active: {why}")));
            continue;
        }
        findings.push(Finding::note(
            AREA,
            format!("{name} is active: {why}"),
            format!("if something fails, try without it: VK_LOADER_LAYERS_DISABLE={name}"),
        ));
    }
    for name in forced.iter().filter(|name| !active.iter().any(|layer| layer.name == **name)) {
        findings.push(Finding::problem(
            AREA,
            format!("VK_INSTANCE_LAYERS names {name}, which has no manifest"),
            "install the layer, name its folder in VK_ADD_LAYER_PATH, or unset VK_INSTANCE_LAYERS",
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(AREA, "none is active"));
    }
    (active, findings)
}

fn layers_of(manifest: &Manifest) -> Vec<&Value> {
    let Ok(content) = &manifest.content else { return vec![] };
    let many = content.get("layers").and_then(Value::as_array).into_iter().flatten();
    content.get("layer").into_iter().chain(many).collect()
}

/// Why an implicit layer is active.
fn implicit(layer: &Value, name: &str) -> Option<String> {
    let is_set = |key: &str, value: &str| env::var(key).is_ok_and(|set| set == value);
    let pairs = |field| layer.get(field).and_then(Value::as_object).into_iter().flatten();
    let set_off = pairs("disable_environment").any(|(key, _)| env::var_os(key).is_some());
    let names = ["~implicit~", "~all~", name];
    if set_off || names.iter().any(|name| is_listed("VK_LOADER_LAYERS_DISABLE", name)) {
        return None;
    }
    let mut enabling = pairs("enable_environment").peekable();
    if enabling.peek().is_none() {
        return Some("it is implicit, and nothing disables it".to_owned());
    }
    enabling
        .find(|(key, value)| value.as_str().is_some_and(|value| is_set(key, value)))
        .map(|(key, _)| format!("it is implicit, and {key} enables it"))
}
