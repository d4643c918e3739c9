image=$1 directory=$2 name=$4
mount --make-rprivate /
cd "$directory"
mkdir -p upper work root
mount -t overlay -o "lowerdir=$image,upperdir=upper,workdir=work" overlay root
cd root
mount -t proc proc proc
# Of the kernel's switches those of the network alone are this machine's.
for path in proc/sys proc/sys/net; do mount --bind $path $path; done
mount -o remount,bind,ro proc/sys
[ ! -e proc/sysrq-trigger ] || mount --bind /dev/null proc/sysrq-trigger
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs dev
mkdir dev/net dev/pts dev/shm
for device in 'null 1 3' 'zero 1 5' 'full 1 7' 'random 1 8' 'urandom 1 9' 'tty 5 0' 'net/tun 10 200'; do
  mknod -m 666 dev/${device%% *} c ${device#* }
done
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
for link in fd stdin:fd/0 stdout:fd/1 stderr:fd/2; do ln -s /proc/self/${link#*:} dev/${link%:*}; done
mount -t tmpfs tmpfs dev/shm
mount -t tmpfs -o mode=755 tmpfs run
hostname "$name"
echo "$name" >etc/hostname
printf '127.0.0.1 localhost\n' >etc/hosts
pivot_root . mnt
umount -l /mnt
# As systemd leaves it where it is no container's: what is mounted later is seen by services, too.
mount --make-rshared /
# The clock, modules and ports of the machine below are not this one's.
exec env -i container=mesh-lab \
  setpriv --bounding-set -sys_time,-sys_module,-sys_rawio,-syslog,-mac_admin,-mac_override \
  /lib/systemd/systemd --unit=multi-user.target
