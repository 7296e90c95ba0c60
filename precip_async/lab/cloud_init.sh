# This computer's own cloud-init, on a machine in namespaces: run before its SSH server starts, as a
# stock image's boot does, and left to itself for what an image does afterwards.
#
# Takes: PATH, platform ("aws": to be what instances of EC2 are; empty for nothing in particular),
# seconds (that it takes at least), fails (whether a script of ours does; empty for no), and as $1
# where its state is.
[ "$1" = /run/cloud-init ] || exit 1 # what follows is for a machine that has all files of its own
rm -rf /var/lib/cloud /etc/cloud/cloud.cfg.d /etc/cloud/cloud-init.disabled /var/log/cloud-init*.log
distro=$(sed -n 's/^ *distro: *//p' /etc/cloud/cloud.cfg | head -n 1)
mkdir -p /etc/cloud

# A stock image's, without the modules that need a machine with a disk, a boot loader and a
# hypervisor. The host key is known beforehand and stays. Before cloud-init believes any URL it
# looks for three names that nobody has: without a route, as here, that fails at once, and with one
# that leads nowhere it takes 30 s.
cat >/etc/cloud/cloud.cfg <<END
users: [default]
disable_root: true
ssh_deletekeys: false
ssh_genkeytypes: [ed25519]
network: {config: disabled}
datasource_list: [Ec2]
datasource:
  Ec2:
    strict_id: false
    metadata_urls: ["http://169.254.169.254"]
    max_wait: 10
    timeout: 5
cloud_init_modules: [bootcmd, write-files, set_hostname, update_hostname, users-groups, ssh]
cloud_config_modules: [set-passwords, timezone, runcmd]
cloud_final_modules:
  - package-update-upgrade-install
  - write-files-deferred
  - scripts-vendor
  - scripts-per-once
  - scripts-per-boot
  - scripts-per-instance
  - scripts-user
  - phone-home
  - final-message
output: {all: "| tee -a /var/log/cloud-init-output.log"}
system_info:
  distro: ${distro:-debian}
  default_user:
    name: ubuntu
    gecos: Ubuntu
    lock_passwd: true
    groups: [adm, sudo]
    sudo: ["ALL=(ALL) NOPASSWD:ALL"]
    shell: /bin/bash
  paths: {cloud_dir: /var/lib/cloud, templates_dir: /etc/cloud/templates}
log_cfgs:
  - |
    [loggers]
    keys=root
    [handlers]
    keys=file
    [formatters]
    keys=plain
    [logger_root]
    level=DEBUG
    handlers=file
    [handler_file]
    class=FileHandler
    level=DEBUG
    formatter=plain
    args=("/var/log/cloud-init.log", "a", "UTF-8")
    [formatter_plain]
    format=%(asctime)s - %(filename)s[%(levelname)s]: %(message)s
END

# cloud-init asks for a token only where the firmware says that this is EC2, and does not look at
# the firmware in what it takes for a container.
if [ "$platform" = aws ]; then
    uuid=ec2$(cut -c 4- /proc/sys/kernel/random/uuid)
    mkdir -p /run/firmware /usr/local/sbin
    cat >/usr/local/sbin/systemd-detect-virt <<END
#!/bin/sh
case "\$*" in
*-c*) exit 1 ;;
*-q*) ;;
*) echo amazon ;;
esac
END
    for name in product_uuid product_serial; do
        echo "$uuid" >"/run/firmware/$name"
        [ ! -e "/sys/class/dmi/id/$name" ] ||
            mount --bind "/run/firmware/$name" "/sys/class/dmi/id/$name"
    done
    cat >/usr/local/sbin/dmidecode <<END
#!/bin/sh
case "\$2" in
system-uuid | system-serial-number) echo "$uuid" ;;
*) echo "Amazon EC2" ;;
esac
END
    chmod 755 /usr/local/sbin/systemd-detect-virt /usr/local/sbin/dmidecode
fi
if [ -n "$fails" ]; then
    mkdir -p /var/lib/cloud/scripts/per-instance
    printf '#!/bin/sh\necho "a fault asked for" >&2\nexit 1\n' \
        >/var/lib/cloud/scripts/per-instance/fault
    chmod 755 /var/lib/cloud/scripts/per-instance/fault
fi

cloud-init init
# Without PAM sshd takes a leading "!" for a locked account and refuses even its keys.
sed -i 's/^\([^:]*\):!/\1:*/' /etc/shadow
{
    cloud-init modules --mode=config
    sleep "$seconds"
    cloud-init modules --mode=final
} &
