//! Why this machine gives us no private network, and the way out of it.

use std::io;
use std::path::Path;

use super::Rights;

/// A refusal; its text is one sentence with the way out in parentheses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// A sysctl turns user namespaces off.
    #[error(
        "user namespaces are switched off by {sysctl} = {value} (run as root, or: sudo sysctl -w {sysctl}={way_out})"
    )]
    UserNamespacesOff {
        /// The sysctl in dotted form.
        sysctl: &'static str,
        /// Its present value.
        value: i64,
        /// A value that allows them.
        way_out: i64,
    },
    /// The kernel was built without user namespaces.
    #[error("this kernel has no user namespaces (run as root)")]
    NoUserNamespaces,
    /// AppArmor lets an unprivileged program make a user namespace but gives it no rights inside.
    #[error(
        "AppArmor refuses user namespaces to unprivileged programs (run as root, or: sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0)"
    )]
    AppArmor,
    /// Something else refuses: a seccomp filter, a container without rights.
    #[error(
        "{what} is not permitted, most likely by a container's seccomp filter or a chroot (run outside of it, or start the container with --privileged or with --cap-add SYS_ADMIN --cap-add NET_ADMIN --security-opt seccomp=unconfined)"
    )]
    Container {
        /// What was not permitted.
        what: &'static str,
    },
    /// The limit of namespaces is reached or zero.
    #[error(
        "the limit of {what} namespaces is reached (raise it: sudo sysctl -w user.max_{what}_namespaces=1000)"
    )]
    Limit {
        /// "user" or "net".
        what: &'static str,
    },
    /// The kernel was built without network namespaces.
    #[error("this kernel has no network namespaces (it needs CONFIG_NET_NS)")]
    NoNetworkNamespaces,
    /// The TUN device node is not there.
    #[error("{path} is missing (sudo modprobe tun; in a container add --device /dev/net/tun)")]
    TunMissing {
        /// The node.
        path: String,
    },
    /// The TUN device node does not open for this user.
    #[error(
        "{path} does not open for this user: its mode is {mode:04o} (run as root, or: sudo chmod 0666 {path}; in a container add --device {path})"
    )]
    TunForbidden {
        /// The node.
        path: String,
        /// Its permission bits now.
        mode: u32,
    },
    /// The kernel has no TUN driver behind the node.
    #[error("this kernel has no TUN driver (sudo modprobe tun, or a kernel with CONFIG_TUN)")]
    NoTun,
    /// The caller came too late; a mistake in the program.
    #[error(
        "a process can enter a private network only while it has one thread (call this first in main)"
    )]
    Threads,
    /// Anything the list above does not foresee.
    #[error("cannot make a private network: {0} (run as root)")]
    Other(String),
}

const USERNS_MAX: &str = "user.max_user_namespaces";
const USERNS_CLONE: &str = "kernel.unprivileged_userns_clone";
const APPARMOR: &str = "kernel.apparmor_restrict_unprivileged_userns";

/// The sysctls that forbid user namespaces, before anything is tried.
pub(super) fn sysctl_says_no(read: impl Fn(&str) -> Option<i64>) -> Result<(), Refused> {
    for (sysctl, way_out) in [(USERNS_MAX, 15000), (USERNS_CLONE, 1)] {
        if read(sysctl) == Some(0) {
            return Err(Refused::UserNamespacesOff {
                sysctl,
                value: 0,
                way_out,
            });
        }
    }
    Ok(())
}

/// What a failed unshare of the user namespace, or of its id maps, means.
pub(super) fn user(e: &io::Error, read: impl Fn(&str) -> Option<i64>) -> Refused {
    match e.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) if read(APPARMOR) == Some(1) => Refused::AppArmor,
        Some(libc::EPERM | libc::EACCES) => Refused::Container {
            what: "making a user namespace",
        },
        Some(libc::ENOSPC | libc::EUSERS) => Refused::Limit { what: "user" },
        Some(libc::EINVAL | libc::ENOSYS) => Refused::NoUserNamespaces,
        _ => Refused::Other(e.to_string()),
    }
}

/// What a failed unshare of the network namespace means.
pub(super) fn net(rights: Rights, e: &io::Error) -> Refused {
    match (e.raw_os_error(), rights) {
        // AppArmor's profile strips the capabilities a user namespace gives.
        (Some(libc::EPERM), Rights::UserNamespace) if apparmor_restricts() => Refused::AppArmor,
        (Some(libc::EPERM), _) => Refused::Container {
            what: "making a network namespace",
        },
        (Some(libc::ENOSPC), _) => Refused::Limit { what: "net" },
        (Some(libc::EINVAL), _) => Refused::NoNetworkNamespaces,
        _ => Refused::Other(e.to_string()),
    }
}

fn apparmor_restricts() -> bool {
    super::read_sysctl(APPARMOR) == Some(1)
}

/// What a failed open of the TUN node means; `mode` asks for its mode.
pub(super) fn tun(path: &Path, e: &io::Error, mode: impl FnOnce() -> io::Result<u32>) -> Refused {
    let path = path.display().to_string();
    match (e.raw_os_error(), mode()) {
        (Some(libc::ENOENT | libc::ENOTDIR), _) => Refused::TunMissing { path },
        (Some(libc::EACCES | libc::EPERM), Ok(mode)) => Refused::TunForbidden { path, mode },
        (Some(libc::ENODEV | libc::ENXIO), _) => Refused::NoTun,
        _ => Refused::Other(format!("{path}: {e}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn os(code: i32) -> io::Error {
        io::Error::from_raw_os_error(code)
    }

    #[test]
    fn a_sysctl_of_zero_names_itself_and_its_way_out() {
        let read = |name: &str| Some(i64::from(name != USERNS_CLONE));
        let text = sysctl_says_no(read).unwrap_err().to_string();
        assert!(
            text.contains("sysctl -w kernel.unprivileged_userns_clone=1"),
            "{text}"
        );
        assert_eq!(sysctl_says_no(|_| None), Ok(()));
    }

    #[test]
    fn eperm_is_apparmor_only_where_it_restricts() {
        assert_eq!(user(&os(libc::EPERM), |_| Some(1)), Refused::AppArmor);
        assert!(matches!(
            user(&os(libc::EPERM), |_| None),
            Refused::Container { .. }
        ));
        assert_eq!(user(&os(libc::EINVAL), |_| None), Refused::NoUserNamespaces);
    }

    #[test]
    fn the_tun_node_tells_missing_mode_and_driver_apart() {
        let path = Path::new("/dev/net/tun");
        let mode = || Ok(0o600);
        let text = tun(path, &os(libc::EACCES), mode).to_string();
        assert!(text.contains("mode is 0600"), "{text}");
        assert!(matches!(
            tun(path, &os(libc::ENOENT), mode),
            Refused::TunMissing { .. }
        ));
        assert_eq!(tun(path, &os(libc::ENODEV), mode), Refused::NoTun);
    }

    #[test]
    fn no_network_namespaces_is_einval() {
        assert_eq!(
            net(Rights::Root, &os(libc::EINVAL)),
            Refused::NoNetworkNamespaces
        );
        assert!(matches!(
            net(Rights::Root, &os(libc::EPERM)),
            Refused::Container { .. }
        ));
    }
}
