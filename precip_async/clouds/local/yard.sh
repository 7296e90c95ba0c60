# The yard of one experiment: what its machines share. Run as process 1 of namespaces of its own
# (network, mounts, processes), with the warden's pipe as standard input: when the warden is gone,
# by whatever death, the pipe ends, this process ends, and the kernel ends every machine with it.
#
# Takes: FSTAB, MACHINE (texts of files).
# Says on standard output: "pid <its number as the warden sees it>", then, after a line on standard
# input has said that the cable to the host is plugged in, "open".
set -eu
umask 022

read -r pid _ </proc/self/stat # /proc is still the host's: so is the number

mount -t tmpfs -o mode=0755,size=64m precip /tmp
[ ! -e /run/netns/1 ] || mount -t tmpfs precip /run/netns # machines say `netns 1`, a number
printf '%s' "$FSTAB" >/tmp/fstab
printf '%s' "$MACHINE" >/tmp/machine.sh
mkdir -p /tmp/machine /tmp/seed
cd /tmp/seed

# The seed: what every machine's own disk starts with.
mkdir work view root home tmp vartmp run run/sshd dev dev/pts dev/shm
mkdir -p upper/etc/ssh upper/root upper/home upper/tmp upper/var/tmp upper/run upper/dev \
    upper/proc upper/sys
chmod 1777 tmp vartmp dev/shm
while read -r _ below work; do
    case "$work" in
    *workdir=/tmp/machine/more/*)
        work=${work##*workdir=/tmp/machine/}
        mkdir -p "${work%% *}" "${work%/work*}/upper" "upper${below#/tmp/machine/view}"
        ;;
    esac
done </tmp/fstab
# Powering off: process 1 ends, which is sshd, and the kernel ends the rest. What this computer has
# for it would look for an init, and machines have none.
mkdir -p upper/usr/local/sbin
cat >upper/usr/local/sbin/shutdown <<'END'
#!/bin/sh
when=
for word; do
    case $word in
    -c) exec kill "$(cat /run/shutdown.pid)" ;;
    -r | --reboot) echo "this machine can't be rebooted" >&2 && exit 1 ;;
    -*) ;;
    *) when=${when:-$word} ;;
    esac
done
case ${when:-now} in
now | 0 | +0) ;;
+*)
    minutes=${when#+}
    setsid sh -c 'sleep $(($1 * 60)) && kill -TERM 1' sh "$minutes" </dev/null >/dev/null 2>&1 &
    echo $! >/run/shutdown.pid
    exit
    ;;
*) echo "$when: this machine knows now and +minutes" >&2 && exit 1 ;;
esac
exec kill -TERM 1
END
printf '#!/bin/sh\nexec kill -TERM 1\n' >upper/usr/local/sbin/poweroff
cp upper/usr/local/sbin/poweroff upper/usr/local/sbin/halt
chmod 755 upper/usr/local/sbin/*
mknod -m 0666 dev/null c 1 3
mknod -m 0666 dev/zero c 1 5
mknod -m 0666 dev/full c 1 7
mknod -m 0666 dev/random c 1 8
mknod -m 0666 dev/urandom c 1 9
mknod -m 0666 dev/tty c 5 0
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
ln -s /proc/self/fd/0 dev/stdin
ln -s /proc/self/fd/1 dev/stdout
ln -s /proc/self/fd/2 dev/stderr
[ ! -d /etc/skel ] || cp -a /etc/skel/. root/
chmod 0700 root
for key in /etc/ssh/ssh_host_*; do # the host's own: whited out, all but the one that is replaced
    [ "$key" = /etc/ssh/ssh_host_ed25519_key ] || mknod "upper$key" c 0 0
done
while IFS=: read -r _ _ uid gid _ home _; do
    case "$home" in
    */../* | */..) ;;
    /home/?*)
        mkdir -p ".$home"
        [ ! -d /etc/skel ] || cp -a /etc/skel/. ".$home/"
        chown -R "$uid:$gid" ".$home"
        chmod 0700 ".$home"
        ;;
    esac
done </etc/passwd
# Without PAM sshd takes a leading "!" for a locked account and refuses even its keys.
if [ -f /etc/shadow ]; then
    cp -p /etc/shadow upper/etc/shadow # for its owner and mode
    sed 's/^\([^:]*\):!/\1:*/' /etc/shadow >upper/etc/shadow
fi

# No IPv6 between machines: with hundreds on one bridge their multicast chatter would flood it.
for scope in all default; do
    [ ! -e /proc/sys/net/ipv6/conf/$scope ] || echo 1 >/proc/sys/net/ipv6/conf/$scope/disable_ipv6
done
ip link add bridge type bridge stp_state 0 mcast_snooping 0
ip link set bridge up
mkdir /tmp/sys
mount -t sysfs -o ro sysfs /tmp/sys # of this network: machines look up there when they are joined

echo "pid $pid"
read -r _
ip link set cable master bridge up
echo open
exec cat >/dev/null
