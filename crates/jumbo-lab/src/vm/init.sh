#!/bin/busybox sh
# The first program of a guest: mounts, modules, and an agent on the second serial port.
# A command comes as "NUMBER SECONDS HEX" and goes as its output, a record separator, "NUMBER STATUS".
/bin/busybox mkdir -p /proc /sys /dev /tmp /run /root /usr/bin /usr/sbin /sbin
/bin/busybox --install -s /bin
export PATH=/bin:/usr/bin:/sbin:/usr/sbin HOME=/root
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
while read -r module; do
    insmod "$module" || echo "cannot load $module" >/dev/console
done </modules/order
ip link set lo up
# A quiet network whose addresses work at once.
for key in all default; do
    echo 0 >/proc/sys/net/ipv6/conf/$key/accept_ra
    echo 0 >/proc/sys/net/ipv6/conf/$key/accept_dad
    echo 0 >/proc/sys/net/ipv6/conf/$key/router_solicitations
done
for card in /sys/class/net/eth*; do
    [ -e "$card" ] || continue
    echo 1 >/proc/sys/net/ipv6/conf/"${card##*/}"/addr_gen_mode
    echo 0 >/proc/sys/net/ipv6/conf/"${card##*/}"/accept_dad
done
agent() {
    exec 3<>/dev/ttyS1
    stty -F /dev/ttyS1 raw -echo
    printf 'AGENT READY\n' >&3
    while read -r number seconds hex <&3; do
        printf %s "$hex" | xxd -r -p >/tmp/command
        timeout "$seconds" sh /tmp/command </dev/null >&3 2>&1 3>&-
        printf '\036%s %d\n' "$number" "$?" >&3
    done
}
# Not by this process: what runs on behind a command becomes its child, and the signal at the end of a child makes
# `read` drop the part of a line that it has.
agent &
while :; do
    wait
    sleep 1
done
