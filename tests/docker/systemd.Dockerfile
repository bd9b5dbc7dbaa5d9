# A machine of its own for docs/systemd.md: Debian with systemd and what the guide installs.
FROM debian:trixie-slim
RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends systemd dbus nodejs \
  postgresql-client curl && rm -rf /var/lib/apt/lists/*
STOPSIGNAL SIGRTMIN+3
# As on a real machine: the unified cgroup hierarchy, which IPAddressDeny needs, and shared mounts, which LoadCredential needs.
CMD ["sh", "-c", "umount -R /sys/fs/cgroup; mount -t cgroup2 cgroup2 /sys/fs/cgroup; mount --make-rshared /; exec /lib/systemd/systemd"]
