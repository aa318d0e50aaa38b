#!/usr/bin/env bash
# two_hosts.sh SCRIPT [ARGUMENTS]: torchrun on two hosts, which are two network namespaces of this machine joined by a cable.
# Exits with 77 where this user may not make them. PROCESSES and RESTARTS are read from the environment.
set -u
python=${PYTHON:-python3}
name=mtl$$
declare -A agents

clean_up() {
    kill "${agents[@]}" 2>/dev/null
    for host in 1 2; do
        ip netns delete "$name-$host" 2>/dev/null
        rm -rf "/etc/netns/$name-$host"
    done
}

ip netns add "$name-1" 2>/dev/null || { echo "this user may not make network namespaces"; exit 77; }
trap clean_up EXIT
trap 'exit 143' TERM INT
ip netns add "$name-2"
ip link add "v${name}1" netns "$name-1" type veth peer name "v${name}2" netns "$name-2"
for host in 1 2; do
    # `ip netns exec` mounts these over /etc: without them, every look-up of a name waits for a server that is not there.
    mkdir -p "/etc/netns/$name-$host"
    printf '127.0.0.1 localhost\n10.77.0.1 host1\n10.77.0.2 host2\n' >"/etc/netns/$name-$host/hosts"
    echo 'hosts: files' >"/etc/netns/$name-$host/nsswitch.conf"
    ip -n "$name-$host" link set lo up
    ip -n "$name-$host" address add "10.77.0.$host/24" dev "v$name$host"
    ip -n "$name-$host" link set "v$name$host" up
done
for host in 1 2; do
    # A hostname of its own, because gloo listens on the address of the hostname.
    ip netns exec "$name-$host" unshare --uts sh -c "hostname host$host; exec \"\$@\"" - \
        "$python" -m torch.distributed.run --nnodes 2 --nproc-per-node "${PROCESSES:-1}" --max-restarts "${RESTARTS:-0}" \
        --rdzv-backend c10d --rdzv-endpoint host1:29511 --rdzv-id "$name" "$@" &
    agents[$host]=$!
done
code=0
for host in 1 2; do
    wait "${agents[$host]}" || code=$?
done
agents=()
exit $code
