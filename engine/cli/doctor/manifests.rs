//! The manifests of drivers and layers, found as the Vulkan loader finds them (`LoaderDriverInterface.md` and
//! `LoaderLayerInterface.md` of KhronosGroup/Vulkan-Loader).

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// A manifest and its content, or what is wrong with it.
#[derive(Clone, Debug)]
pub(crate) struct Manifest {
    pub(crate) file: PathBuf,
    pub(crate) content: Result<Value, String>,
}

impl Manifest {
    fn read(file: PathBuf) -> Self {
        let content = fs::read_to_string(&file)
            .map_err(|error| format!("it cannot be read: {error}"))
            .and_then(|text| {
                serde_json::from_str(&text).map_err(|error| format!("it is no JSON: {error}"))
            });
        Self { file, content }
    }

    /// Its file's name without folders.
    pub(crate) fn name(&self) -> String {
        let name = self.file.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    /// The text of a field of its object `part`.
    pub(crate) fn field(&self, part: &str, name: &str) -> Option<&str> {
        self.content.as_ref().ok()?.get(part)?.get(name)?.as_str()
    }

    /// What is wrong with a driver's manifest or its library; `None` if nothing is known to be.
    pub(crate) fn driver_error(&self) -> Option<String> {
        if let Err(error) = &self.content {
            return Some(error.clone());
        }
        let Some(library) = self.field("ICD", "library_path") else {
            return Some("it has no ICD.library_path".to_owned());
        };
        let at = self.library()?;
        match fs::metadata(&at) {
            Ok(_) => None,
            Err(error) => Some(format!("its library {library} cannot be read: {error}")),
        }
    }

    /// The path of its library. `None` for a bare name, which the dynamic linker looks up.
    pub(crate) fn library(&self) -> Option<PathBuf> {
        let path = self.field("ICD", "library_path")?;
        let folder = self.file.parent().unwrap_or(Path::new("/"));
        path.contains('/').then(|| folder.join(path))
    }

    /// Whether the manifest says that it is for programs with pointers of another size.
    pub(crate) fn is_of_other_size(&self) -> bool {
        let bits = self.field("ICD", "library_arch");
        bits.is_some_and(|bits| bits.parse() != Ok(usize::BITS))
    }
}

/// The manifests of drivers, in the loader's order.
pub(crate) fn drivers() -> Vec<Manifest> {
    let only = ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"].into_iter().find_map(listed);
    let places = only.unwrap_or_else(|| {
        let mut places = listed("VK_ADD_DRIVER_FILES").unwrap_or_default();
        places.extend(folders("icd.d"));
        places
    });
    read(places)
}

/// The manifests of implicit layers (`implicit_layer.d`) or explicit ones (`explicit_layer.d`).
pub(super) fn layers(kind: &str) -> Vec<Manifest> {
    let (only, add) = match kind {
        "implicit_layer.d" => ("VK_IMPLICIT_LAYER_PATH", "VK_ADD_IMPLICIT_LAYER_PATH"),
        _ => ("VK_LAYER_PATH", "VK_ADD_LAYER_PATH"),
    };
    let places = listed(only).unwrap_or_else(|| {
        let mut places = listed(add).unwrap_or_default();
        places.extend(folders(kind));
        places
    });
    read(places)
}

/// The paths that a variable lists. `None` if it is not set or empty.
fn listed(variable: &str) -> Option<Vec<PathBuf>> {
    let value = env::var_os(variable).filter(|value| !value.is_empty())?;
    Some(env::split_paths(&value).filter(|path| !path.as_os_str().is_empty()).collect())
}

/// The folders that are searched when no variable replaces them.
fn folders(kind: &str) -> Vec<PathBuf> {
    let home = |inside: &str| env::var_os("HOME").map(|home| Path::new(&home).join(inside));
    let one = |variable: &str, inside| listed(variable).or_else(|| Some(vec![home(inside)?]));
    let many = |variable: &str, default: [&str; 2]| {
        listed(variable).unwrap_or_else(|| default.map(PathBuf::from).to_vec())
    };
    let mut roots = one("XDG_CONFIG_HOME", ".config").unwrap_or_default();
    roots.extend(many("XDG_CONFIG_DIRS", ["/etc/xdg", "/etc/xdg"]));
    roots.push("/etc".into());
    roots.extend(one("XDG_DATA_HOME", ".local/share").unwrap_or_default());
    roots.extend(many("XDG_DATA_DIRS", ["/usr/local/share", "/usr/share"]));
    roots.into_iter().map(|root| root.join("vulkan").join(kind)).collect()
}

/// The manifests at `places`: files, or folders of files. Each file once.
fn read(places: Vec<PathBuf>) -> Vec<Manifest> {
    let mut files: Vec<PathBuf> = Vec::new();
    for place in places {
        let found = match fs::read_dir(&place) {
            Ok(entries) => {
                let mut inside: Vec<_> = entries
                    .filter_map(|entry| Some(entry.ok()?.path()))
                    .filter(|path| path.extension().is_some_and(|kind| kind == "json"))
                    .collect();
                inside.sort();
                inside
            }
            // A folder that is not there is passed over; so is a path that names neither.
            Err(_) if place.extension().is_some_and(|kind| kind == "json") => vec![place],
            Err(_) => vec![],
        };
        for file in found {
            if !files.contains(&file) {
                files.push(file);
            }
        }
    }
    files.into_iter().map(Manifest::read).collect()
}

/// Whether a list of the loader, such as `VK_LOADER_DRIVERS_DISABLE`, names `name`: patterns with `*` at their ends,
/// separated by commas, without regard to case.
pub(super) fn is_listed(variable: &str, name: &str) -> bool {
    let name = name.to_lowercase();
    let list = env::var(variable).unwrap_or_default().to_lowercase();
    list.split(',').map(str::trim).filter(|pattern| !pattern.is_empty()).any(|pattern| {
        let inner = pattern.trim_matches('*');
        match (pattern.starts_with('*'), pattern.ends_with('*')) {
            (true, true) => name.contains(inner),
            (true, false) => name.ends_with(inner),
            (false, true) => name.starts_with(inner),
            (false, false) => name == inner,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(text: &str) -> Manifest {
        let content = serde_json::from_str(text).map_err(|error| error.to_string());
        Manifest { file: "/a/b/x_icd.json".into(), content }
    }

    #[test]
    fn a_library_is_searched_beside_its_manifest_or_by_the_linker() {
        let of = |library: &str| {
            manifest(&format!("{{\"ICD\": {{\"library_path\": \"{library}\"}}}}")).library()
        };
        assert_eq!(of("./libx.so"), Some("/a/b/./libx.so".into()));
        assert_eq!(of("/lib/libx.so"), Some("/lib/libx.so".into()));
        assert_eq!(of("libx.so"), None);
    }

    #[test]
    fn a_manifest_without_a_library_is_an_error() {
        let error = manifest("{\"ICD\": {}}").driver_error();
        assert_eq!(error.as_deref(), Some("it has no ICD.library_path"));
        let other = manifest("{\"ICD\": {\"library_path\": \"x\", \"library_arch\": \"16\"}}");
        assert!(other.is_of_other_size());
    }
}
