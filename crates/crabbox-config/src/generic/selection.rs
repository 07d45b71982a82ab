//! What to lease.

use std::time::Duration;

use crabbox_core::Section;
use crabbox_core::choices;
use crabbox_core::spec::{OperatingSystem, WindowsMode};

choices! {
    /// Processor family of a box.
    pub enum Architecture {
        /// x86-64.
        Amd64 = "amd64" | "x86_64" | "x64",
        /// 64-bit Arm.
        Arm64 = "arm64" | "aarch64",
    }
}

choices! {
    /// Desktop that a box with one runs.
    pub enum DesktopEnvironment {
        /// Xfce on X11.
        Xfce = "xfce",
        /// A plain Wayland compositor.
        Wayland = "wayland",
        /// GNOME.
        Gnome = "gnome",
    }
}

choices! {
    /// Which address of a box is used.
    pub enum Network {
        /// The tailnet when the box is on it, the public address otherwise.
        Auto = "auto",
        /// The tailnet only.
        Tailscale = "tailscale",
        /// The public address only.
        Public = "public",
    }
}

/// What to lease, and for how long. These keys stand at the top level of a file.
#[derive(Clone, Debug, Section)]
#[section(name = "")]
#[non_exhaustive]
pub struct Selection {
    /// Profile whose environment, artifacts and requirements apply. A name without a block is only a label.
    #[key(env = "CRABBOX_PROFILE", flag = "profile", default = "default")]
    pub profile: String,
    /// Provider that boxes come from, by name or alias.
    #[key(env = "CRABBOX_PROVIDER", flag = "provider")]
    pub provider: Option<String>,
    /// Operating system of the box.
    #[key(alias = "targetOS", env = ["CRABBOX_TARGET", "CRABBOX_TARGET_OS"], flag = "target", default = "linux")]
    pub target: OperatingSystem,
    /// Processor family of the box.
    #[key(env = "CRABBOX_ARCH", flag = "arch", default = "amd64")]
    pub architecture: Architecture,
    /// Operating system image of a Linux box.
    #[key(
        env = "CRABBOX_OS",
        flag = "os",
        default = "ubuntu:26.04",
        values = [
            "ubuntu:26.04|ubuntu_26.04|ubuntu-26.04|ubuntu26.04|ubuntu:2604|ubuntu_2604|ubuntu-2604|ubuntu2604",
            "ubuntu:24.04|ubuntu_24.04|ubuntu-24.04|ubuntu24.04|ubuntu:2404|ubuntu_2404|ubuntu-2404|ubuntu2404"
        ]
    )]
    pub os: String,
    /// How commands reach a Windows box.
    #[key(
        name = "windows.mode",
        env = "CRABBOX_WINDOWS_MODE",
        flag = "windows-mode",
        default = "normal"
    )]
    pub windows_mode: WindowsMode,
    /// Machine class: `tiny`, `small`, `standard`, `fast`, `large`, `beast`, or a provider's own machine type.
    #[key(env = "CRABBOX_DEFAULT_CLASS", flag = "class", default = "beast")]
    pub class: String,
    /// Exact machine type; it is used as it is, without fallback.
    #[key(env = "CRABBOX_SERVER_TYPE", flag = "type")]
    pub server_type: Option<String>,
    /// Dedicated host that the box is placed on.
    #[key(env = ["CRABBOX_HOST_ID", "CRABBOX_AWS_MAC_HOST_ID"])]
    pub host_id: Option<String>,
    /// Whether the box has a desktop.
    #[key(env = "CRABBOX_DESKTOP", flag = "desktop")]
    pub desktop: bool,
    /// Whether the box has a browser.
    #[key(env = "CRABBOX_BROWSER", flag = "browser")]
    pub browser: bool,
    /// Whether the box has a web editor.
    #[key(env = "CRABBOX_CODE", flag = "code")]
    pub code: bool,
    /// Desktop that a box with one runs.
    #[key(env = "CRABBOX_DESKTOP_ENV", flag = "desktop-env", default = "xfce")]
    pub desktop_env: DesktopEnvironment,
    /// Which address of a box is used.
    #[key(
        alias = "/tailscale.network",
        env = "CRABBOX_NETWORK",
        flag = "network",
        default = "auto"
    )]
    pub network: Network,
    /// Directory on the box below which workspaces live; the provider and the target choose when it is not set.
    #[key(env = "CRABBOX_WORK_ROOT")]
    pub work_root: Option<String>,
    /// Longest life of a lease.
    #[key(
        name = "lease.ttl",
        alias = "ttl",
        env = "CRABBOX_TTL",
        flag = "ttl",
        default = "90m"
    )]
    pub ttl: Duration,
    /// How long a lease may be idle before it is given back.
    #[key(
        name = "lease.idleTimeout",
        alias = "idleTimeout",
        env = "CRABBOX_IDLE_TIMEOUT",
        flag = "idle-timeout",
        default = "30m"
    )]
    pub idle_timeout: Duration,
}

impl Selection {
    /// The work root, or the default of the target.
    pub fn work_root_or_default(&self) -> &str {
        match (&self.work_root, self.target, self.windows_mode) {
            (Some(root), ..) => root,
            (None, OperatingSystem::Macos, _) => "/Users/ec2-user/crabbox",
            (None, OperatingSystem::Windows, WindowsMode::Normal) => "C:\\crabbox",
            (None, ..) => "/work/crabbox",
        }
    }
}
