# shellcheck shell=bash
# What is taken out of packages without installing them. Sourced by ../setup.
#
# Each part is made in a folder beside its place and moved there when it is whole, so that a part which
# is present can be trusted.

downloads=$deps/.downloads
# vgem has fences that tests signal themselves; cirrus drives the machine's display.
kernel_modules=(vgem cirrus)
trap 'rm -rf "$downloads" "$deps"/.new-*' EXIT

# Debian's browser holds it. Ubuntu has no such package, but the machine may have a browser; where it has
# none, an empty folder stands for SwiftShader, so that nobody looks for it again.
unpack_swiftshader() {
    local new
    new=$(begin swiftshader)
    if [ -n "$(candidate chromium-common)" ]; then
        take chromium-common usr/lib/chromium/libvk_swiftshader.so "$new"
    else
        take_from_browser "$new"
    fi
    if [ -e "$new/libvk_swiftshader.so" ]; then
        check_libraries "$new"/*.so
        swiftshader_manifest >"$new/vk_swiftshader_icd.json"
    fi
    finish swiftshader
}

take_from_browser() {
    local found
    for found in /opt/google/chrome /opt/microsoft/msedge /usr/lib/chromium /snap/chromium/current/usr/lib/chromium-browser; do
        [ -e "$found/libvk_swiftshader.so" ] && cp "$found/libvk_swiftshader.so" "$1/" && return
    done
    say "no package or browser here holds SwiftShader; going on without it"
}

# Its own manifest says 1.0, upon which a loader may hide from it what the application asks for.
swiftshader_manifest() {
    cat <<'JSON'
{
    "file_format_version": "1.0.0",
    "ICD": { "library_path": "./libvk_swiftshader.so", "api_version": "1.3.0" }
}
JSON
}

# The browser's layer is years newer than the one packaged with Debian 12, and comes without a manifest.
# Ubuntu has no such package; its own layer has to do there.
unpack_validation() {
    local new package=chromium-common folder=usr/lib/chromium
    [ -n "$(candidate $package)" ] || package=vulkan-validationlayers folder=usr/lib/x86_64-linux-gnu
    new=$(begin validation)
    take $package $folder/libVkLayer_khronos_validation.so "$new"
    check_libraries "$new"/*.so
    validation_manifest >"$new/VkLayer_khronos_validation.json"
    finish validation
}

# Of the version, the loader looks at the first two numbers only.
validation_manifest() {
    cat <<'JSON'
{
    "file_format_version": "1.2.0",
    "layer": {
        "name": "VK_LAYER_KHRONOS_validation",
        "description": "Khronos validation layer",
        "type": "GLOBAL",
        "library_path": "./libVkLayer_khronos_validation.so",
        "api_version": "1.4.0",
        "implementation_version": "1",
        "instance_extensions": [
            { "name": "VK_EXT_debug_report", "spec_version": "10" },
            { "name": "VK_EXT_debug_utils", "spec_version": "2" },
            { "name": "VK_EXT_layer_settings", "spec_version": "2" },
            { "name": "VK_EXT_validation_features", "spec_version": "6" }
        ]
    }
}
JSON
}

# Not installed, because busybox-static would drive out the busybox that a machine may have.
unpack_busybox() {
    local new
    new=$(begin busybox)
    take busybox-static '*bin/busybox' "$new"
    finish busybox
}

# A kernel that was unpacked without a module that is wanted by now is unpacked again.
have_kernel() {
    local module
    for module in "${kernel_modules[@]}"; do
        compgen -G "$deps/kernel/modules/*-$module.ko" >/dev/null || return 1
    done
}

unpack_kernel() {
    local new tree=$downloads/tree packages package option module
    new=$(begin kernel)
    mkdir -p "$tree"
    packages=$(kernel_packages)
    for package in $packages; do
        dpkg-deb --fsys-tarfile "$(deb "$package")" | tar -x -C "$tree"
    done
    mv "$tree"/boot/vmlinuz-* "$new/vmlinuz"
    mv "$tree"/boot/config-* "$new/config"
    for option in UDMABUF DMABUF_HEAPS_SYSTEM RD_ZSTD; do
        grep -q "^CONFIG_$option=y" "$new/config" || die "this kernel was built without CONFIG_$option"
    done
    mkdir "$new/modules"
    for module in "${kernel_modules[@]}"; do
        take_module "$tree" "$module" "$new/modules"
    done
    rm -rf "$tree" "$deps/kernel"
    finish kernel
}

# The distribution's kernel is a package that depends on the real one. Ubuntu keeps the modules apart.
kernel_packages() {
    local name=linux-image-amd64 suite release package
    [ -n "$(candidate $name)" ] || name=linux-image-generic
    suite=$(suite_with $name "$kernel_minimum")
    release=$(apt-cache show "$name=$(candidate $name "$suite")" | sed -nE 's/^Depends:.* linux-image-([0-9][^ ,]*).*/\1/p')
    for package in linux-{image,modules,modules-extra}-"$release"; do
        [ -z "$(candidate "$package")" ] || echo "$package"
    done
}

# A module and those it needs, each after what it needs: the numbers are the order to load them in.
take_module() {
    local tree=$1 name=$2 into=$3 file needed count
    compgen -G "$into/*-$name.ko" >/dev/null && return
    file=$(find "$tree" -name "${name//_/[-_]}.ko*")
    [ -f "$file" ] || die "this kernel has no module $name"
    for needed in $(expand "$file" | tr '\0' '\n' | sed -n 's/^depends=//p' | tr , ' '); do
        take_module "$tree" "$needed" "$into"
    done
    count=$(find "$into" -type f | wc -l)
    expand "$file" >"$into/$((count + 1))-$name.ko"
}

expand() {
    case $1 in
        *.xz) "$deps/busybox/busybox" xz -dc "$1" ;;
        *.zst) zstd -dcq "$1" ;;
        *) cat "$1" ;;
    esac
}

# --- the means ---

# Starts a part: prints the folder to make it in.
begin() {
    say "unpacking $1"
    rm -rf "$deps/.new-$1"
    mkdir -p "$deps/.new-$1"
    echo "$deps/.new-$1"
}

finish() { mv -T "$deps/.new-$1" "$deps/$1"; }

# Takes one file out of a package.
take() {
    local package=$1 path=$2 into=$3 file
    file=$(deb "$package")
    dpkg-deb --fsys-tarfile "$file" | tar -x -C "$into" --wildcards --transform 's|.*/||' "./$path" ||
        die "$package does not hold $path any more"
}

# Prints the path of a package's file, downloaded once. Ours is a folder of our own: a container's apt may
# be set up to empty the usual one.
deb() {
    mkdir -p "$downloads"
    if ! compgen -G "$downloads/$1_*.deb"; then
        (cd "$downloads" && apt-get -qq -o Acquire::Retries=3 -o APT::Sandbox::User=root download "$1" >>"$log" 2>&1) ||
            die_with_log "apt could not download $1"
        compgen -G "$downloads/$1_*.deb"
    fi
}

check_libraries() {
    local missing
    missing=$(ldd "$@" | grep 'not found' || true)
    [ -z "$missing" ] || die "libraries are missing for $*:"$'\n'"$missing"
}
