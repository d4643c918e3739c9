# Boots the machine, and boots it again on the same root when it reboots: what the next script does is the first argument,
# the others are its arguments.
directory=$3
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs "$directory"
while :; do
  status=0
  setpriv --pdeathsig KILL unshare -muipCf --kill-child sh -ec "$1" boot "$2" "$3" "$4" "$5" || status=$?
  # So ends the first process of a machine that reboots (reboot(2)): by SIGHUP.
  [ $status -eq 129 ] || exit $status
  # A kernel that starts anew knows nothing of the one before.
  for link in $(ip -o link | sed 's/^[0-9]*: \([^:@]*\).*/\1/'); do
    case $link in lo|eth0) ;; *) ip link delete "$link" 2>/dev/null || : ;; esac
  done
  nft flush ruleset
  echo 0 >/proc/sys/net/ipv4/ip_forward
done
