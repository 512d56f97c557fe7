//! The Vulkan instance and its validation messages.
#![expect(
    unsafe_code,
    reason = "loading Vulkan, creating and destroying the instance, its callback"
)]

use std::ffi::{CStr, c_void};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use ash::{ext, vk};

use crate::error::{Error, Result};

/// Vulkan 1.2: timeline semaphores and driver properties without extensions.
pub(crate) const API_VERSION: u32 = vk::API_VERSION_1_2;

const VALIDATION_LAYER: &CStr = c"VK_LAYER_KHRONOS_validation";

/// Instance extensions that an application should enable before it lets peerbuf adopt its device.
///
/// All that peerbuf needs of the instance is core in Vulkan 1.2, so the list is empty. It is a function so that
/// this can change without breaking callers.
pub fn instance_extensions() -> &'static [&'static CStr] {
    &[]
}

/// The Vulkan loader of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Loader {
    /// The newest Vulkan version that it supports, which is its own, packed as `VK_MAKE_API_VERSION` does.
    pub version: u32,
    /// The file that the dynamic linker found; `None` if the process' map of memory does not show it.
    pub file: Option<PathBuf>,
}

impl Loader {
    /// Loads the loader and asks for its version, without any driver.
    ///
    /// # Errors
    ///
    /// [`Error::NoLoader`]; [`Error::Vulkan`] if the loader cannot tell its version.
    pub fn find() -> Result<Self> {
        // SAFETY: loading the system's Vulkan loader runs its initialisers, which are sound.
        let entry = unsafe { ash::Entry::load() }.map_err(|source| Error::NoLoader { source })?;
        // SAFETY: the entry is loaded; the call has no other requirement.
        let version = unsafe { entry.try_enumerate_instance_version() }
            .map_err(|code| Error::vulkan("vkEnumerateInstanceVersion", "loader", code))?;
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
        let file = |line: &str| {
            let path = &line[line.find('/')?..];
            path.contains("libvulkan.so").then(|| path.into())
        };
        // A loader of Vulkan 1.0 does not have the call.
        let version = version.unwrap_or(vk::API_VERSION_1_0);
        Ok(Self { version, file: maps.lines().find_map(file) })
    }
}

/// Whether to enable the Khronos validation layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Validation {
    /// Without the layer, and without its cost.
    #[default]
    Off,
    /// With the layer if it is installed.
    IfPresent,
    /// With the layer; opening the engine fails if it is not installed.
    Required,
}

/// A message of the validation layer or the driver. All of them are also `tracing` events.
#[derive(Clone, Debug)]
pub struct Message {
    /// Whether it is an error; otherwise it is a warning.
    pub error: bool,
    /// The VUID or the message's name; empty if it has none.
    pub id: String,
    /// The message.
    pub text: String,
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.id, self.text)
    }
}

/// Receives messages. Called from inside Vulkan calls, on any thread; must not call Vulkan.
pub type MessageSink = Arc<dyn Fn(&Message) + Send + Sync>;

/// A live `VkInstance`.
///
/// # Invariants
///
/// `raw` is live. If `owned`, it was created here and nothing else destroys it; otherwise the application
/// keeps it alive for as long as this exists (contract of `Engine::adopt_device`).
pub(crate) struct Instance {
    /// Keeps `libvulkan` loaded; `raw` calls into it.
    entry: ash::Entry,
    raw: ash::Instance,
    owned: bool,
    messenger: Option<Messenger>,
}

struct Messenger {
    ext: ext::debug_utils::Instance,
    raw: vk::DebugUtilsMessengerEXT,
    /// What the messenger's user data points to. Freed after the messenger.
    _sink: Box<Option<MessageSink>>,
}

impl Instance {
    /// Loads Vulkan and creates an instance.
    pub(crate) fn create(validation: Validation, sink: Option<MessageSink>) -> Result<Arc<Self>> {
        // SAFETY: loading the system's Vulkan loader runs its initialisers, which are sound.
        let entry = unsafe { ash::Entry::load() }.map_err(|source| Error::NoLoader { source })?;
        let layers = layers(&entry, validation)?;
        let extensions = if layers.is_empty() { vec![] } else { vec![ext::debug_utils::NAME] };
        let raw = create_raw(&entry, &layers, &extensions)?;
        let mut this = Self { entry, raw, owned: true, messenger: None };
        if !layers.is_empty() {
            this.messenger = Some(this.create_messenger(sink)?);
        }
        Ok(Arc::new(this))
    }

    /// Wraps an application's instance.
    ///
    /// # Safety
    ///
    /// `raw` was loaded through `entry`, is of version 1.2 or newer, and outlives the result.
    pub(crate) unsafe fn adopt(entry: ash::Entry, raw: ash::Instance) -> Arc<Self> {
        // INVARIANT: not owned; the caller keeps it alive.
        Arc::new(Self { entry, raw, owned: false, messenger: None })
    }

    pub(crate) fn raw(&self) -> &ash::Instance {
        &self.raw
    }

    pub(crate) fn physical_devices(&self) -> Result<Vec<vk::PhysicalDevice>> {
        // SAFETY: `raw` is live by the type invariant.
        match unsafe { self.raw.enumerate_physical_devices() } {
            Ok(list) => Ok(list),
            // A loader without any driver returns this at instance creation or here.
            Err(vk::Result::ERROR_INITIALIZATION_FAILED) => Ok(vec![]),
            Err(code) => Err(Error::vulkan("vkEnumeratePhysicalDevices", "loader", code)),
        }
    }

    fn create_messenger(&self, sink: Option<MessageSink>) -> Result<Messenger> {
        let ext = ext::debug_utils::Instance::new(&self.entry, &self.raw);
        let sink = Box::new(sink);
        let info = vk::DebugUtilsMessengerCreateInfoEXT::default()
            .message_severity(
                vk::DebugUtilsMessageSeverityFlagsEXT::ERROR
                    | vk::DebugUtilsMessageSeverityFlagsEXT::WARNING,
            )
            .message_type(
                vk::DebugUtilsMessageTypeFlagsEXT::VALIDATION
                    | vk::DebugUtilsMessageTypeFlagsEXT::GENERAL,
            )
            .pfn_user_callback(Some(on_message))
            .user_data((&raw const *sink).cast_mut().cast());
        // SAFETY: VK_EXT_debug_utils is enabled, and the user data is a live box that the result
        // owns beside the messenger.
        let raw = unsafe { ext.create_debug_utils_messenger(&info, None) }
            .map_err(|code| Error::vulkan("vkCreateDebugUtilsMessengerEXT", "loader", code))?;
        Ok(Messenger { ext, raw, _sink: sink })
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if let Some(messenger) = &self.messenger {
            // SAFETY: created from this instance in `create_messenger` and destroyed only here.
            unsafe { messenger.ext.destroy_debug_utils_messenger(messenger.raw, None) };
        }
        if self.owned {
            // SAFETY: by the type invariant the instance is ours. Devices hold an `Arc` of it, so
            // the last of them is gone.
            unsafe { self.raw.destroy_instance(None) };
        }
    }
}

impl fmt::Debug for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Instance").field("owned", &self.owned).finish_non_exhaustive()
    }
}

fn layers(entry: &ash::Entry, validation: Validation) -> Result<Vec<&'static CStr>> {
    if validation == Validation::Off {
        return Ok(vec![]);
    }
    // SAFETY: the entry is loaded; the call has no other requirement.
    let present = unsafe { entry.enumerate_instance_layer_properties() }
        .map_err(|code| Error::vulkan("vkEnumerateInstanceLayerProperties", "loader", code))?
        .iter()
        .any(|layer| layer.layer_name_as_c_str() == Ok(VALIDATION_LAYER));
    match (present, validation) {
        (true, _) => Ok(vec![VALIDATION_LAYER]),
        (false, Validation::Required) => Err(Error::Unsupported {
            device: "the Vulkan loader".into(),
            missing: "VK_LAYER_KHRONOS_validation".into(),
        }),
        (false, _) => Ok(vec![]),
    }
}

fn create_raw(entry: &ash::Entry, layers: &[&CStr], extensions: &[&CStr]) -> Result<ash::Instance> {
    let application = vk::ApplicationInfo::default()
        .application_name(c"peerbuf")
        .engine_name(c"peerbuf")
        .api_version(API_VERSION);
    let layers: Vec<_> = layers.iter().map(|name| name.as_ptr()).collect();
    let extensions: Vec<_> = extensions.iter().map(|name| name.as_ptr()).collect();
    let info = vk::InstanceCreateInfo::default()
        .application_info(&application)
        .enabled_layer_names(&layers)
        .enabled_extension_names(&extensions);
    // SAFETY: all pointers in `info` are to locals that outlive the call, and the names are those
    // of a layer that was enumerated and of an extension which that layer provides.
    match unsafe { entry.create_instance(&info, None) } {
        Ok(raw) => Ok(raw),
        // The loader returns this if it finds no driver.
        Err(vk::Result::ERROR_INCOMPATIBLE_DRIVER) => Err(Error::NoDevice {
            seen: 0,
            why: "the loader found no driver (Debian: install mesa-vulkan-drivers)".into(),
        }),
        Err(code) => Err(match Error::vulkan("vkCreateInstance", "loader", code) {
            // Loaders before 1.3.240 return this for a manifest that is no JSON (KhronosGroup/Vulkan-Loader#1324).
            Error::Vulkan { code: vk::Result::ERROR_OUT_OF_HOST_MEMORY, .. } => Error::NoDevice {
                seen: 0,
                why: "vkCreateInstance returned ERROR_OUT_OF_HOST_MEMORY, as older loaders do if a driver's \
                      manifest is broken"
                    .into(),
            },
            error => error,
        }),
    }
}

/// The messenger's callback.
///
/// # Safety
///
/// Called by the loader with valid data and with the user data given at creation.
unsafe extern "system" fn on_message(
    severity: vk::DebugUtilsMessageSeverityFlagsEXT,
    _kind: vk::DebugUtilsMessageTypeFlagsEXT,
    data: *const vk::DebugUtilsMessengerCallbackDataEXT<'_>,
    sink: *mut c_void,
) -> vk::Bool32 {
    // SAFETY: the loader passes a valid pointer for the duration of the call.
    let data = unsafe { &*data };
    // SAFETY: the specification says that the names are null or NUL-terminated.
    let id = unsafe { data.message_id_name_as_c_str() };
    // SAFETY: as above.
    let text = unsafe { data.message_as_c_str() };
    let message = Message {
        error: severity.contains(vk::DebugUtilsMessageSeverityFlagsEXT::ERROR),
        id: id.map_or_else(String::new, |id| id.to_string_lossy().into_owned()),
        text: text.map_or_else(String::new, |text| text.to_string_lossy().into_owned()),
    };
    tracing::warn!(target: "peerbuf::vulkan", id = message.id, error = message.error, "{}", message.text);
    // SAFETY: the user data is the boxed sink of `create_messenger`, freed after the messenger.
    if let Some(sink) = unsafe { &*sink.cast::<Option<MessageSink>>() } {
        sink(&message);
    }
    vk::FALSE
}
