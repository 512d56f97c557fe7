//! The profiles that come with the layer.

/// A named set of switches.
#[derive(Clone, Copy, Debug)]
pub struct Profile {
    /// Name, as in `DRIVER_SIM`.
    pub name: &'static str,
    /// Its text, in TOML.
    pub text: &'static str,
}

macro_rules! profiles {
    ($($name:literal),* $(,)?) => {
        /// All profiles, in the order of their names.
        pub const PROFILES: &[Profile] = &[
            $(Profile { name: $name, text: include_str!(concat!("../../profiles/", $name, ".toml")) }),*
        ];
    };
}

profiles!["amdvlk", "anv", "anv-igpu", "legacy", "nvidia", "nvk", "radv", "radv-apu", "v3dv"];

/// Finds a profile by its name.
#[must_use]
pub fn profile(name: &str) -> Option<Profile> {
    PROFILES.iter().copied().find(|profile| profile.name == name)
}
