# One machine. Run as process 1 of namespaces of its own (network, mounts, host name, IPC,
# processes) inside the yard's; builds what it stands on, then becomes its SSH server, which reaps
# orphans as process 1 has to.
#
# Takes: HOLDER (the yard's process), PORT (its end of the cable), NAME, ADDRESS, PREFIX, MAC,
# GATEWAY, GATEWAY_MAC, DISK (of the mount's options), SSHD, SSHD_CONFIG, HOST_KEY, KEYS, ROOT_KEYS,
# RESOLV (what they name, empty for none), SUDOER (a user as stock images have, empty for none),
# CLOUD_INIT (a script that is or plays it, empty for none), POWER (one that returns when the
# machine is to power itself off, empty for none), METADATA (the address of its metadata
# service, empty for none), INTERNET, FAULT, NOFILE.
# Says on standard output: "pid <its number as the warden sees it>", then, where there is to be a
# metadata service, "network", and waits for a line on standard input, and "up" when it has its
# address and its SSH server is about to start. Complaints go to the machine's log.
set -eu
umask 022

read -r pid _ </proc/self/stat # /proc is still the host's: so is the number
echo "pid $pid"
ulimit -S -n "$NOFILE"
echo "$NAME" >/proc/sys/kernel/hostname

# Its disk, and on it the view of the host's root that it may write to.
mount -t tmpfs -o "mode=0755$DISK" "$NAME" /tmp/machine
cp -a /tmp/seed/. /tmp/machine/
cd /tmp/machine/upper/etc
echo "$NAME" >hostname
printf '127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n%s %s\n' \
    "$ADDRESS" "$NAME" >hosts
[ -z "$RESOLV" ] || printf '%s' "$RESOLV" >resolv.conf
printf '%s' "$SSHD_CONFIG" >ssh/sshd_config
printf '%s\n' "$KEYS" >ssh/authorized_keys
printf '%s\n' "$ROOT_KEYS" >ssh/authorized_keys.root
(umask 077 && printf '%s' "$HOST_KEY" >ssh/ssh_host_ed25519_key)
mount --all --fstab /tmp/fstab

# Its network.
[ ! -e /proc/sys/net/ipv6/conf/default ] || echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6
nsenter --net="/proc/$HOLDER/ns/net" \
    ip link add "$PORT" master bridge up type veth peer name eth0 address "$MAC" netns 1
ip -batch - <<END
link set lo up
address add $ADDRESS/$PREFIX broadcast + dev eth0
link set eth0 up
neighbour add $GATEWAY lladdr $GATEWAY_MAC dev eth0 nud permanent
${INTERNET:+route add default via $GATEWAY}
${METADATA:+address add $METADATA/32 dev lo}
END
[ -z "$METADATA" ] || { echo network && read -r _; }
# Until both ends are really up packets are lost, and a client's lost SYN costs a whole second.
until read -r state <"/tmp/sys/class/net/$PORT/brport/state" && [ "$state" = 3 ] &&
    read -r state </tmp/machine/view/sys/class/net/eth0/operstate && [ "$state" = up ]; do
    sleep 0.005
done

cd /tmp/machine/view
pivot_root . .
umount --lazy .
cd /

if [ -n "$SUDOER" ] && ! grep -q "^$SUDOER:" /etc/passwd; then
    echo "$SUDOER:x:59000:59000:$SUDOER:/home/$SUDOER:/bin/sh" >>/etc/passwd
    echo "$SUDOER:x:59000:" >>/etc/group
    [ ! -f /etc/shadow ] || echo "$SUDOER:*:19000:0:99999:7:::" >>/etc/shadow
    mkdir -p "/home/$SUDOER"
    chown 59000:59000 "/home/$SUDOER"
    [ ! -d /etc/sudoers.d ] ||
        echo "$SUDOER ALL=(ALL) NOPASSWD:ALL" >/etc/sudoers.d/90-cloud-init-users
fi

# What a machine must not be able to do to the host by mistake.
set -- setpriv --bounding-set=-sys_module,-sys_rawio,-sys_time --reset-env
begin_cloud_init() {
    [ -z "$CLOUD_INIT" ] ||
        "$@" sh -c "$CLOUD_INIT" cloud-init /run/cloud-init </dev/null >&2 ||
        echo "its cloud-init failed" >&2 # and it boots all the same
}
# sshd writes its title over its environment, and cloud-init reads that of process 1: it has none.
if [ "$FAULT" = ssh_hangs ]; then
    "$@" env -i "$SSHD" -D -e </dev/null >/dev/null &
    until grep -q ' 00000000:0016 .* 0A ' /proc/net/tcp; do sleep 0.02; done
    kill -STOP $! # the kernel goes on accepting for it
    echo up
    begin_cloud_init "$@"
    exec >/dev/null
    wait
fi
echo up
begin_cloud_init "$@"
if [ -n "$POWER" ]; then
    rm -rf /var/lib/cloud # this computer's, if it has one
    "$@" sh -c "$POWER
exec poweroff" power /var/lib/cloud/instance </dev/null >/dev/null &
fi
[ "$FAULT" != ssh_late ] || read -r _
exec "$@" env -i "$SSHD" -D -e </dev/null >/dev/null
