# shellcheck shell=bash
# On a system without apt: nothing is installed, what is missing is named. Sourced by ../setup.

missing=()
need() { missing+=("$1"); }

elsewhere_demo() {
    has cargo || need "Rust's cargo"
    has cc || need "a C compiler, for linking"
    have_vulkan || need "a Vulkan driver and loader (Fedora: vulkan-loader mesa-vulkan-drivers; Arch: vulkan-icd-loader vulkan-swrast; openSUSE: libvulkan1 libvulkan_lvp)"
    name_missing
}

elsewhere_apps() {
    has Xvfb || need "Xvfb (Fedora: xorg-x11-server-Xvfb; Arch: xorg-server-xvfb; openSUSE: xorg-x11-server-Xvfb)"
    has weston || need "Weston"
    elsewhere_test
}

elsewhere_test() {
    local part
    has cargo || need "Rust's cargo"
    has cc || need "a C compiler, for linking"
    has zstd || need "zstd"
    has qemu-system-x86_64 || need "QEMU for x86-64 (Fedora: qemu-system-x86-core; Arch: qemu-system-x86; openSUSE: qemu-x86)"
    have_loader || need "the Vulkan loader"
    have_gles || need "EGL, with OpenGL ES of Mesa (Fedora: libglvnd-egl, mesa-libEGL; Arch: libglvnd, mesa; openSUSE: libEGL1, Mesa-libEGL1)"
    driver_manifests | grep lvp >/dev/null || need "lavapipe, from Mesa $mesa_minimum or newer (Fedora: mesa-vulkan-drivers; Arch: vulkan-swrast; openSUSE: libvulkan_lvp)"
    for part in swiftshader/libvk_swiftshader.so swiftshader/vk_swiftshader_icd.json \
        validation/libVkLayer_khronos_validation.so validation/VkLayer_khronos_validation.json \
        busybox/busybox kernel/vmlinuz kernel/config kernel/modules; do
        [ -e "$deps/$part" ] || need "target/deps/$part (.ci/setup.d/unpack.sh shows where Debian has it)"
    done
    name_missing
}

name_missing() {
    [ ${#missing[@]} = 0 ] && return
    say "this system has no apt, so please install by hand:"
    printf '  - %s\n' "${missing[@]}"
    exit 1
} >&2
