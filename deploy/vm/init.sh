#!/bin/busybox sh
# First process of the virtual machine, from memory: mounts the files of the machine around it, read-only, below a layer
# that takes what is written, and hands over to command.sh among them.
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t devtmpfs dev /dev
for module in $(cat /modules/order); do insmod "/modules/$module"; done
mount -t virtiofs -o ro host /below
mount -t tmpfs -o size=75% above /above
mkdir /above/files /above/work
mount -t overlay -o lowerdir=/below,upperdir=/above/files,workdir=/above/work files /files
cd /files
mount -t proc proc proc
mount -t sysfs sys sys
mount -t devtmpfs dev dev
mkdir -p dev/pts dev/shm
mount -t devpts pts dev/pts
mount -t tmpfs shm dev/shm
mount -t tmpfs tmp tmp
mount -t tmpfs run run
mount -t cgroup2 cgroup sys/fs/cgroup
# As a service manager does it: processes are in leaves, and their bounds can be given to others.
mkdir sys/fs/cgroup/command
echo $$ >sys/fs/cgroup/command/cgroup.procs
echo "+memory +pids" >sys/fs/cgroup/cgroup.subtree_control
ip link set lo up
cp /command.sh tmp/command.sh
exec switch_root /files /bin/sh /tmp/command.sh
