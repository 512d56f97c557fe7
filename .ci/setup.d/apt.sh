# shellcheck shell=bash
# The shopping list, and how apt fulfils it. Sourced by ../setup.

log=$deps/setup.log
wanted=()               # packages to install, whatever version the machine prefers
wanted_newer=()         # "package minimum": from backports where the distribution's own is older
parts=()                # things to unpack under target/deps/, see unpack.sh

want() { wanted+=("$@"); }
want_at_least() { wanted_newer+=("$2 $1"); }
unpack_later() { parts+=("$1"); }

installed_version() { dpkg-query -W -f '${Version}' "$1:$(dpkg --print-architecture)" 2>/dev/null || true; }
newer_installed() { at_least "$(installed_version "$1")" "$2"; }
at_least() { [ -n "$1" ] && dpkg --compare-versions "$1" ge "$2"; }
candidate() { apt-cache ${2:+-o "APT::Default-Release=$2"} policy "$1" | sed -n 's/^  Candidate: \([0-9].*\)/\1/p'; }

# Does everything on the list. Drivers come last: one that is present means that the rest is too.
fulfil() {
    [ "${#wanted[@]}${#wanted_newer[@]}${#parts[@]}" != 000 ] || return 0
    mkdir -p "$deps"
    : >"$log"
    refresh_lists
    [ ${#wanted[@]} = 0 ] || install_packages "" "${wanted[@]}"
    local part
    for part in ${parts[@]+"${parts[@]}"}; do
        "unpack_$part"
    done
    install_newer
}

install_newer() {
    local entry name minimum suite
    for entry in ${wanted_newer[@]+"${wanted_newer[@]}"}; do
        read -r name minimum <<<"$entry"
        suite=$(suite_with "$name" "$minimum")
        install_packages "$suite" "$name"
    done
}

install_packages() {
    local suite=$1
    shift
    say "installing $*${suite:+ from $suite}"
    apt_get ${suite:+-t "$suite"} --no-install-recommends install "$@" || die_with_log "apt could not install $*"
}

# A failure may concern a source that has nothing to do with us; what is really missing shows later.
refresh_lists() {
    may_install || return 0
    say "refreshing the package lists"
    apt_get update || say "some package lists could not be refreshed; going on with what there is"
}

# Unpacking needs nobody's permission, installing does.
may_install() {
    [ "$(id -u)" = 0 ] || has sudo && return
    [ "${#wanted[@]}${#wanted_newer[@]}" = 00 ] && return 1
    die "these packages are missing, and this user is neither root nor has sudo: ${wanted[*]-} ${wanted_newer[*]-}"
}

apt_get() {
    as_root env DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 \
        apt-get -y -q -o Acquire::Retries=3 -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 "$@" \
        </dev/null >>"$log" 2>&1
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif has sudo; then
        sudo "$@"
    else
        die "this needs root or sudo: $*"
    fi
}

die_with_log() {
    tail -n 15 "$log" >&2
    die "$1; the whole story is in $log"
}

# Prints the suite to ask for NAME in version MINIMUM or newer: nothing where the machine's preferred one
# will do, else Debian's backports, which are added to the machine's sources if they are not there.
suite_with() {
    local name=$1 minimum=$2 suite
    at_least "$(candidate "$name")" "$minimum" && return
    suite=$(backports) && at_least "$(candidate "$name" "$suite")" "$minimum" && echo "$suite" && return
    die "this system's package sources have no $name $minimum or newer (but '$(candidate "$name")')"
}

# Prints the name of the backports suite, after making sure that apt knows it.
backports() {
    local codename suite
    codename=$(. /etc/os-release && [ "$ID" = debian ] && echo "${VERSION_CODENAME:-}")
    [ -n "$codename" ] || return 1
    suite=$codename-backports
    if [ -z "$(package_lists "Codename: $suite")" ]; then
        say "adding $suite, from the mirror that $codename comes from"
        add_suite "$codename" "$suite"
        refresh_lists
    fi
    echo "$suite"
}

# Copies the line or the paragraph that names SUITE in apt's own configuration, with NEW in its place, so
# that mirror and signing key stay the machine's own.
add_suite() {
    local suite=$1 new=$2 entry word file copy=/etc/apt/sources.list.d/peerbuf-$2
    read -r entry word < <(package_lists "Codename: $suite" "Component: main" "Origin: Debian") ||
        die "apt knows no source for $suite, so none can be derived for $new"
    file=${entry%:*}
    case $file in
        *.sources) paragraph_for "$word" "$new" <"$file" | as_root tee "$copy.sources" ;;
        *) line_for "$new" "${entry##*:}" <"$file" | as_root tee "$copy.list" ;;
    esac >>"$log"
}

package_lists() { apt-get indextargets --format '$(SOURCESENTRY) $(RELEASE)' 'Created-By: Packages' "$@"; }

# The paragraph for suite $1 in apt's newer format, without comments, changed to suite $2.
paragraph_for() {
    awk -v RS= -v word="$1" -v new="$2" '
        { gsub(/(^|\n)#[^\n]*/, ""); $0 = "\n" $0 }
        $0 ~ "\nSuites:([^\n]*[ \t])?" word "([ \t\n]|$)" {
            gsub(/\nTypes:[^\n]*/, "\nTypes: deb")
            gsub(/\nSuites:[^\n]*(\n[ \t][^\n]*)*/, "\nSuites: " new)
            gsub(/\nComponents:[^\n]*(\n[ \t][^\n]*)*/, "\nComponents: main")
            sub(/^\n+/, "")
            print
            exit
        }'
}

# Line $2 of apt's older format, changed to suite $1.
line_for() {
    sed -nE "$2"'s/^([[:space:]]*deb[[:space:]]+(\[[^]]*\][[:space:]]*)?[^[:space:]]+)[[:space:]].*/\1 '"$1"' main/p'
}
