# shellcheck shell=bash
# Does this machine have Vulkan? Sourced by ../setup.

# (Not `grep -q`, which would end ldconfig with a broken pipe.)
have_loader() { ldconfig -p 2>/dev/null | grep 'libvulkan\.so\.1 ' >/dev/null; }

# The dispatch library of EGL, by which tests in the virtual machine run Mesa's OpenGL ES.
have_gles() { ldconfig -p 2>/dev/null | grep 'libEGL\.so\.1 ' >/dev/null; }

# A loader, and a driver's manifest where the loader would look for one.
have_vulkan() { have_loader && [ -n "$(driver_manifests)" ]; }

driver_manifests() {
    if [ -n "${VK_DRIVER_FILES:-${VK_ICD_FILENAMES:-}}" ]; then
        echo "${VK_DRIVER_FILES:-$VK_ICD_FILENAMES}"
        return
    fi
    local folders folder
    IFS=: read -ra folders <<<"${XDG_CONFIG_HOME:-${HOME:-}/.config}:/etc/xdg:/etc:${XDG_DATA_HOME:-${HOME:-}/.local/share}:${XDG_DATA_DIRS:-/usr/local/share:/usr/share}"
    for folder in "${folders[@]}"; do
        compgen -G "$folder/vulkan/icd.d/*.json" || true
    done
}
