//! Daily scenes of a docker user: the same shell script once with `longshore`, once with Debian's docker, and the same output of both.

mod common;

use std::path::Path;
use std::process::Command;

use common::{Dockerd, Longshore, busybox, have, output, root, skip, succeed, text};

/// Name and script. `$D` is the program, `$W` a directory of the scene's own, `bb` an image of busybox with `sh` as its command; `n` stands for
/// `--network none`, which is all that this dockerd has.
const SCENES: &[(&str, &str)] = &[
    (
        "default command, environment, user, directory, entry point",
        r##"
        $D run --rm $n bb sh -c 'echo $HOME $PATH; pwd; id -u; id -g'
        echo 'echo piped in' | $D run --rm -i $n bb
        $D run --rm $n -e A=1 -e B -w /made/here -u 33:34 bb sh -c 'echo $A-$B; pwd; id -u; id -g'
        $D run --rm $n --entrypoint echo bb entry point
        $D run --rm $n -h box bb hostname"##,
    ),
    (
        "a file survives stop and start",
        r##"
        $D run -d $n --name keep bb sh -c 'test -e /file && echo again >> /file || echo first > /file; trap "exit 3" TERM; while true; do sleep 0.1; done' > $W/id
        until $D exec keep test -e /file; do sleep 0.1; done
        sleep 0.5; $D stop keep; $D wait keep; $D start keep
        until $D exec keep grep again /file; do sleep 0.1; done 2>&1 | tail -1
        $D exec keep cat /file; $D rm -f keep"##,
    ),
    (
        "stop asks, waits, and kills",
        r##"
        $D run -d $n --name deaf bb sh -c 'trap "" TERM; while true; do sleep 0.1; done' > $W/id; sleep 1
        $D stop -t 1 deaf; $D inspect -f '{{.State.Status}} {{.State.ExitCode}} {{.State.OOMKilled}}' deaf
        $D kill deaf > /dev/null 2>&1; echo $?
        $D start deaf; sleep 0.5; $D kill -s KILL deaf; $D wait deaf; $D start deaf; sleep 1
        before=$(date +%s); $D stop deaf; test $(($(date +%s) - before)) -ge 10 && echo ten seconds; $D inspect -f '{{.State.ExitCode}}' deaf; $D rm deaf"##,
    ),
    (
        "a name is taken once, rm wants force",
        r##"
        $D run -d $n --name one bb sleep 1000 > $W/id
        $D run -d $n --name one bb sleep 1000 2>&1 | grep -o 'The container name "/one" is already in use by container'
        $D rm one > $W/out 2>&1; echo $?; grep -o 'You cannot remove a running container' $W/out
        $D rm -f one; $D inspect one > /dev/null 2>&1; echo $?"##,
    ),
    (
        "detached output is in the logs",
        r##"
        $D run -d $n --name talk bb sh -c 'echo to out; echo to err >&2; printf unfinished' > $W/id
        $D wait talk; $D logs talk 2> $W/err; echo; cat $W/err; $D logs --tail 1 talk 2>/dev/null; echo; $D rm talk"##,
    ),
    (
        "logs with details",
        r##"
        $D run $n --name plain bb sh -c 'echo one; echo two >&2' > $W/out 2>&1; $D logs --details plain 2>&1 | sort
        $D run $n --name told -l a=b -l 'c=d e/ä' -l other=x -e A=1 -e B=2 --log-opt labels=a,c,missing --log-opt env=A bb echo said > $W/out
        $D logs --details told; $D logs --details -t told | cut -d' ' -f2-; $D logs told; $D rm plain told"##,
    ),
    (
        "exited ones are listed and removed",
        r##"
        for i in 1 2; do $D run $n --name gone$i -l scene=list bb sh -c "exit $i"; echo $?; done
        $D ps -a -f label=scene=list -f exited=2 --format '{{.Names}} {{.Command}} {{.Image}}'
        $D ps -aq -f status=exited -f label=scene=list | wc -l
        $D rm $($D ps -aq -f status=exited -f label=scene=list) | wc -l
        $D ps -aq -f label=scene=list"##,
    ),
    (
        "an image in use stays",
        r##"
        $D tag bb other:1; $D create $n --name user bb true > $W/id
        $D rmi other:1 | head -1; $D rmi bb > $W/out 2>&1; echo $?; grep -c 'user\|using' $W/out
        $D rm user; $D create $n --name base bb true > $W/id; $D commit -c 'CMD ["echo","still here"]' base mine:1 > $W/id; $D rm base
        $D run $n --name ended mine:1; $D rmi mine:1 > $W/out 2>&1; echo $?; $D rmi -f mine:1 | head -1; $D images -q mine; $D start -a ended; $D rm ended"##,
    ),
    (
        "volumes are shared and outlive containers",
        r##"
        $D volume create data; mkdir $W/bind; $D volume create -d nfs x 2>&1 | grep -o 'create x: error looking up volume plugin.*'
        $D run --rm $n -v data:/v -v $W/bind:/b bb sh -c 'echo v > /v/f; echo b > /b/f'
        $D run --rm $n -v data:/v:ro -v $W/bind:/b bb sh -c 'cat /v/f /b/f; touch /v/no 2> /dev/null || echo read-only'
        cat $W/bind/f; $D run -d $n --name holds -v data:/v bb sleep 1000 > $W/id
        $D volume rm data > /dev/null 2>&1; echo $?; $D rm -f holds; $D volume rm data; $D volume ls -q -f name=^data$
        $D run --rm $n --mount type=bind,src=$W/bind,dst=/m,readonly bb cat /m/f
        $D run --rm $n --mount type=bind,src=$W/missing,dst=/m bb true > /dev/null 2>&1; echo $?"##,
    ),
    (
        "volumes-from and anonymous volumes",
        r##"
        $D run $n --name from -v /anon bb sh -c 'echo kept > /anon/f'
        $D run --rm $n --volumes-from from bb cat /anon/f; $D run --rm $n --volumes-from from:ro bb sh -c 'touch /anon/x 2>/dev/null || echo ro'
        $D rm -v from"##,
    ),
    (
        "export is a tar of the root",
        r##"
        $D run $n --name out bb sh -c 'mkdir /made; echo x > /made/file; rm /text'
        $D export out | tar t | grep -x 'made/\|made/file\|text\|bin/busybox' | sort; $D rm out"##,
    ),
    (
        "commit, save, load, run",
        r##"
        $D run $n --name base bb sh -c 'echo inside > /made; rm /text'
        $D diff base | sort; $D commit -m words -a me -c 'CMD ["cat","/made"]' -c 'ENV A="b c"' base walk:1 > $W/id
        $D rm base; $D save -o $W/walk.tar walk:1; $D rmi walk:1 > /dev/null; $D2 load -i $W/walk.tar
        $D2 run --rm $n walk:1; $D2 run --rm $n walk:1 sh -c 'echo $A; test -e /text || echo no text'
        $D2 history walk:1 --format '{{.Comment}}' | head -1; $D2 rmi walk:1 > /dev/null"##,
    ),
    (
        "what something is mounted on is committed, but for what every container has",
        r##"
        mkdir $W/bind $W/s; echo x > $W/file
        layer() { $D save $1 | tar x -C $W/s; tar tf $W/s/$(grep -o '"Layers":\[[^]]*' $W/s/manifest.json | sed 's/"$//; s/.*"//') | sort; rm -r $W/s/*; }
        $D run $n --name plain bb true; $D diff plain; $D commit plain plain:1 > $W/id; layer plain:1
        $D run $n --init --name busy -w /work/dir -v /vol/deep -v $W/bind:/bind/x -v $W/file:/etc/file --tmpfs /tmp/t -v $W/bind:/bin/under bb sh -c 'echo x > /made; echo x > /bind/x/f'
        $D diff busy | sort; $D commit busy busy:1 > $W/id; layer busy:1
        $D run $n --name odd bb sh -c 'mkdir -p /etc/own; chmod 700 /tmp; rm /text'; $D diff odd | sort; $D commit odd odd:1 > $W/id; layer odd:1
        $D rm -v plain busy odd; $D rmi plain:1 busy:1 odd:1 > $W/id"##,
    ),
    (
        "commit freezes what runs, and no longer than it takes",
        r##"
        $D run -d $n --name lives bb sleep 1000 > $W/id; $D commit lives froze:1 > $W/id; $D inspect -f '{{.State.Status}}' lives
        $D pause lives; $D commit lives froze:1 > $W/id; $D inspect -f '{{.State.Status}}' lives; $D unpause lives
        $D commit --pause=false lives froze:1 > $W/id; $D inspect -f '{{.State.Status}}' lives; $D rm -f lives; $D rmi froze:1 > $W/id"##,
    ),
    (
        "limits limit",
        r##"
        $D run $n --name big -m 16m --memory-swap 16m bb sh -c 'x=a; while true; do x=$x$x; done' 2> /dev/null; echo $?
        $D inspect -f '{{.State.OOMKilled}} {{.HostConfig.Memory}}' big; $D rm big
        $D run --rm $n --pids-limit 20 bb sh -c 'for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25; do sleep 3 & done; wait' > $W/out 2>&1; grep -c "can't fork" $W/out
        $D run --rm $n --cpus 0.1 bb sh -c 'until grep -q "nr_throttled [1-9]" /sys/fs/cgroup/cpu/cpu.stat; do :; done; echo throttled'
        $D run --rm $n --cpus 0.5 bb cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu/cpu.cfs_period_us
        $D run --rm $n -m 1k bb true > /dev/null 2>&1; echo $?
        $D run --rm $n --shm-size 1m bb sh -c 'df -k /dev/shm | tail -1 | cut -c1-40'"##,
    ),
    (
        "rates of block devices",
        r##"
        for disk in $(ls /sys/block); do test -b /dev/$disk && break; done; g=/sys/fs/cgroup/blkio/blkio.throttle
        $D run $n --name slow --device-read-bps /dev/$disk:1mb --device-write-bps /dev/$disk:2048 --device-read-iops /dev/$disk:100 --device-write-iops /dev/$disk:200 \
            bb cat $g.read_bps_device $g.write_bps_device $g.read_iops_device $g.write_iops_device
        $D inspect -f '{{range .HostConfig.BlkioDeviceReadBps}}{{.Path}} {{.Rate}}{{end}} {{json .HostConfig.BlkioDeviceWriteIOps}}' slow; $D rm slow
        for rate in x /dev/x x:1 /dev/x:y :1; do for kind in bps iops; do
            $D run --rm $n --device-read-$kind $rate bb true 2>&1 | grep -o 'bad format.*\|invalid rate.*' | sed -e "s/ (see 'longshore --help')//" -e 's/\.$//'
        done; done"##,
    ),
    (
        "health comes and goes",
        r##"
        $D run -d $n --name ill --health-cmd 'test -e /well' --health-interval 300ms --health-retries 2 bb sh -c 'touch /well; while true; do sleep 0.1; done' > $W/id
        until $D inspect -f '{{.State.Health.Status}}' ill | grep -x healthy; do sleep 0.1; done
        $D exec ill rm /well; until $D inspect -f '{{.State.Health.Status}}' ill | grep -x unhealthy; do sleep 0.1; done
        $D ps -f name=ill --format '{{.Status}}' | grep -o '(.*)'; $D rm -f ill
        $D run -d $n --name fresh --health-cmd true --health-interval 1h bb sleep 1000 > $W/id; $D inspect -f '{{.State.Health.Status}}' fresh
        $D ps -f name=fresh --format '{{.Status}}' | grep -o '(.*)'; $D ps -q -f health=starting | wc -l; $D rm -f fresh"##,
    ),
    (
        "on-failure:3 tries three times",
        r##"
        $D run -d $n --name thrice --restart on-failure:3 bb sh -c 'echo try; exit 9' > $W/id
        until test "$($D inspect -f '{{.State.Status}} {{.RestartCount}}' thrice)" = 'exited 3'; do sleep 0.2; done
        $D logs thrice; $D inspect -f '{{.RestartCount}} {{.State.ExitCode}}' thrice; $D rm thrice"##,
    ),
    (
        "read-only with a tmpfs",
        r##"
        $D run --rm $n --read-only --tmpfs /scratch bb sh -c 'touch /no 2> /dev/null || echo read-only; touch /scratch/yes && echo writable'
        $D run --rm $n --tmpfs /s:size=1m,mode=1770 bb stat -c %a /s"##,
    ),
    (
        "exit codes and words of failed starts",
        r##"
        $D run --rm $n bb nope > $W/out 2>&1; echo $?; grep -o 'exec: "nope": executable file not found in $PATH' $W/out
        $D run --rm $n bb /text > $W/out 2>&1; echo $?; grep -o 'permission denied' $W/out
        $D run --rm $n bb sh -c 'exit 42'; echo $?; $D run --rm $n bb sh -c 'kill -9 $$'; echo $?
        $D run --rm $n --no-such-flag bb > /dev/null 2>&1; echo $?; $D run --rm --network nope bb true > $W/out 2>&1; echo $?; grep -o 'network nope not found' $W/out
        $D exec nothing true > /dev/null 2>&1; echo $?"##,
    ),
    (
        "sizes of containers and volumes, commands in quotes",
        r##"
        $D run $n --name sized -v vol:/vol bb sh -c 'mkdir -p /a/b; echo hello > /a/f; ln /a/f /a/g; ln -s x /a/l; rm /text; dd if=/dev/zero of=/sparse bs=1 count=1 seek=1000000 2> /dev/null; echo more > /vol/f; ln /vol/f /vol/g; mkdir /vol/d'
        $D create $n --name quoted -v $W:/w -v /anon bb sh -c 'echo "a b" $x; echo \\' ' lead' 'tab	x' "it's" '' > $W/id
        $D ps -as --format '{{.Names}} {{.Size}}' | sed 's/[0-9.]*MB)/N)/'; $D ps -a --format '{{.Names}} {{.Size}}' | sed 's/[0-9.]*MB)/N)/'
        $D inspect -s -f '{{.SizeRw}}' sized quoted; $D ps -as | sed 's/.*N//; s/(.*//; s/.* \([^ ]* *\)$/\1/'; $D ps -a --no-trunc --format '{{.Names}} {{.Command}}'
        $D ps -a --format '{{.Names}} {{.Command}} {{.LocalVolumes}}'
        $D system df --format '{{.Type}} {{.TotalCount}} {{.Active}} {{.Size}} {{.Reclaimable}}' | grep 'Containers\|Volumes'
        $D system df -v | grep '^vol \|^VOLUME\|^CONTAINER' | tr -s ' '; $D rm -fv sized quoted; $D volume rm vol"##,
    ),
    (
        "an image that is here, but for another platform",
        r##"
        export HOME=$W; $D tag bb 127.0.0.1:1/bb; try() { "$@" > $W/out 2>&1; echo $?; grep -io 'fine\|image with reference.*[a-z0-9]\|unable to find image.*\|unknown operating system or architecture' $W/out; }
        for p in linux/arm64 linux/386 linux/amd64/v2 LINUX windows/amd64 '' nonsense; do echo "-- $p"; try $D run --rm $n --pull never --platform "$p" bb echo fine; done
        export DOCKER_DEFAULT_PLATFORM=linux/arm64; try $D run --rm $n --pull never bb echo fine; try $D run --rm $n --pull never --platform '' bb echo fine; unset DOCKER_DEFAULT_PLATFORM
        try $D run --rm $n --platform linux/arm64 127.0.0.1:1/bb echo fine; try $D run --rm $n --platform linux/amd64 127.0.0.1:1/bb echo fine
        DOCKER_DEFAULT_PLATFORM=nonsense try $D pull 127.0.0.1:1/bb; $D rmi 127.0.0.1:1/bb"##,
    ),
    (
        "events of attach and exec",
        r##"
        sleep 1.1; since=$(date +%s); $D run -d $n --name inner -l k=v bb sleep 1000 > $W/id; $D exec inner sh -c 'exit 7'; $D exec -u 0 inner echo; $D exec inner nope > $W/out 2>&1; $D exec -u nobody-there inner true > $W/out 2>&1
        echo 'exit 3' | $D run -i $n --name seen bb sh; echo | $D start -ai seen; sleep 2; until=$(date +%s)
        $D events --since $since --until $until -f type=container -f event=attach -f event=exec_create -f event=exec_start -f event=exec_die > $W/events; sed -e 's/^20[^ ]*Z/TIME/' -e 's/[0-9a-f]\{64\}/ID/g' $W/events
        $D events --since $since --until $until -f event=exec_die -f label=k=v --format '{{.Actor.Attributes.exitCode}}'; grep -o 'execID=[0-9a-f]\{64\}' $W/events | sort | uniq -c | awk '{print $1}' | sort; $D rm -f inner seen"##,
    ),
    (
        "what templates ask of inspect and version",
        r##"
        $D create $n --name asked bb true > $W/id; h='{{with .HostConfig}}{{.Links}} {{.CpuRealtimePeriod}} {{json .ConsoleSize}} {{json .BlkioWeightDevice}}{{end}}'
        $D inspect -f "$h" asked; $D inspect -f '{{.NetworkSettings.GlobalIPv6Address}}.{{.NetworkSettings.HairpinMode}}{{range .NetworkSettings.Networks}} {{.IPv6Gateway}}.{{end}}' asked
        $D version --format '{{.Client.Os}}/{{.Client.Arch}} {{.Server.Os}}/{{.Server.Arch}} {{.Server.KernelVersion}}'; $D version -f '{{.Server.Version}}{{.Client.Version}}' | grep -c '^[0-9]*[.][0-9]'; $D rm asked"##,
    ),
    (
        "exit codes of what fails otherwise",
        r##"
        $D run -d $n --name up bb sleep 1000 > $W/id; $D create $n --name still bb true > $W/id
        while read -r line; do eval "\$D $line" > $W/out 2>&1 < /dev/null; echo "$? $line"; done <<'EOF'
exec up nope
exec up /text
exec -u nobody-there up true
exec -w /nope up true
exec -d up nope
exec -d up /text
exec -d -u nobody-there up true
exec still true
exec -d still true
exec -d nothing true
exec --nope up true
exec up
ps extra
ps --nope
ps -n x
ps --format '{{.Nope'
ps --format '{{.Nope}}'
ps -f exited=x
ps -f exited=1x
ps -f health=x
ps -f is-task=x
ps -f since=nothing
images one two
images --format '{{.Nope'
images -f dangling=x
volume ls -f dangling=x
volume ls --format '{{.Nope'
volume create one two
volume inspect -f '{{.Nope' x
inspect -f '{{.Nope' up
inspect -f '{{.Nope}}' up
version --format '{{.Nope'
version --format '{{.Nope}}'
version extra
info --format '{{.Nope'
info --format '{{.Nope}}'
info extra
events --since 0 --until 1 --format '{{.Nope'
events --since -1h --until -30m
events --since nope --until 0s
system df --format '{{.Nope'
history --format '{{.Nope' bb
logs one two
logs
logs --since nope up
tag bb
rename up
rm
create --nope bb
create --cidfile /nope/id bb
create --cidfile /etc/passwd bb
create --cidfile= --name id bb true
run --rm $n --cidfile= bb true
run --rm $n --cidfile /nope/id bb true
run --rm $n --detach=perhaps bb true
run --rm $n --sig-proxy=perhaps bb true
run --rm $n --device /dev/nope bb true
run --rm $n --env-file /nope bb true
run --rm $n -v /tmp:/a -v /tmp:/a bb true
start nothing
stop up --time=x
EOF
        $D inspect id --format '{{.HostConfig.ContainerIDFile}}.'; $D ps -aq | wc -l; test -e /nope/id; $D rm -f up still id"##,
    ),
    (
        "what cannot be is refused in the same words",
        r##"
        $D run -d $n --name own bb sleep 1000 > $W/id; $D create $n --name still bb true > $W/id; set -f
        say() {
            grep -v "^See\|^Run \|^Usage\|^time=\|^$" | sed -e 's/^docker: //' -e 's/^longshore: //' -e 's/^Error response from daemon: //' \
                -e 's/^invalid argument ".*" for ".*" flag: //' -e "s/^invalid value '.*' for '.*': //" -e "s/ (see 'longshore --help')//" -e 's/[0-9a-f]\{64\}/ID/g' -e 's/\.$//' | tr A-Z a-z
        }
        tr '|' '\n' <<'EOF' > $W/flags
--pid foo|--uts foo|--userns keep-id|--cgroupns foo|--uts host -h x|--network container:own -h x|--network container:own --dns 1.1.1.1|--network container:own --add-host a:1.1.1.1|--network container:own -p 80:80|--network container:own --expose 80|--network container:own -P|--network container:|--mac-address zz|-m 1k|--memory-swap 10m|-m 20m --memory-swap 10m|-m 10m --memory-reservation 20m|--memory-swappiness 200|--cpus 1 --cpu-period 1000|--cpus 1 --cpu-quota 1000|--cpus x|--cpu-period 10|--cpu-quota 10|--cpuset-cpus 99|--cpuset-cpus x|--oom-score-adj 2000|--shm-size -1|--ulimit foo=1|--ulimit nofile=5:1|--ulimit nofile|--tmpfs relative|-v /a:/b:zz|-v /a:/|--mount type=foo,target=/x|--mount type=bind,target=/x|--mount type=bind,src=/nonexist,target=/x|--mount type=volume,src=/abs,target=/x|--mount type=tmpfs,src=a,target=/x|--mount source=x|--mount foo|-v /a:/x -v /b:/x|--volumes-from nope|--volumes-from own:zz|--cap-add foo|--cap-drop foo|--security-opt foo|--security-opt foo=bar|--security-opt seccomp=/nonexist|--security-opt no-new-privileges:maybe|--device /dev/null:rel|--device /dev/null:/dev/x:q|--device-cgroup-rule foo|--env =x|--env-file /nonexist|--workdir rel|--stop-signal FOO|--health-interval 1us --health-cmd x|--health-retries -1 --health-cmd x|--no-healthcheck --health-cmd x|--log-driver foo|--log-opt foo=bar|--log-driver none --log-opt max-size=1m|--name a|--ip foo|-p foo|-p 99999:80|-p 1-3:1-2|-p x:80:80|--dns-search ???|--add-host foo|--add-host foo:bar|--cidfile /etc/passwd|--runtime foo|--attach foo|--pid container:nope|--ipc container:nope|--user nosuchuser|--group-add nosuch|--device /nonexist
EOF
        while read -r flags; do echo "$flags"; case "$flags" in *--network*) none=;; *) none=$n;; esac; $D run --rm $none $flags bb true > $W/said 2>&1 < /dev/null; echo $?; say < $W/said; done < $W/flags
        for mode in "--pid container:still $n" "--ipc container:still $n" "--network container:still"; do $D run --rm $mode bb true 2>&1 | say; done
        $D rm -f own still"##,
    ),
    (
        "a closed pipe ends the client alone",
        r##"
        $D run $n --name yes bb yes 2> $W/err | head -1; grep -ci 'write /dev/stdout: broken pipe' $W/err; $D inspect -f '{{.State.Running}}' yes; $D rm -f yes"##,
    ),
    (
        "an interrupt reaches the container",
        r##"
        sh -c "exec $D run $n --name int bb sh -c 'trap \"echo caught; exit 6\" INT; echo ready; while true; do sleep 0.1; done'" > $W/out & pid=$!
        until grep -q ready $W/out; do sleep 0.1; done; kill -INT $pid; wait $pid; echo $?; cat $W/out; $D rm int"##,
    ),
    (
        "cp both ways",
        r##"
        $D create $n --name files bb true > $W/id; mkdir -p $W/src/sub; echo deep > $W/src/sub/f; echo one > $W/one; ln -s one $W/link
        $D cp $W/one files:/; $D cp $W/one files:/renamed; $D cp $W/src files:/; $D cp $W/src/. files:/bare; $D cp $W/src files:/as; $D cp $W/link files:/
        $D cp $W/src files:/one > /dev/null 2>&1; echo $?; $D cp $W/one files:/missing/x > /dev/null 2>&1; echo $?; $D cp $W/none files:/ > /dev/null 2>&1; echo $?
        mkdir $W/got; $D cp files:/src $W/got; $D cp files:/src $W/got2; $D cp files:/src/. $W/got3; $D cp files:/renamed $W/file; $D cp files:/link $W/link2; $D cp -L files:/link $W/link3
        cd $W; find got got2 got3 file link2 link3 | sort; cat got/src/sub/f got2/sub/f got3/sub/f file link3; readlink link2
        $D cp files:/as - | tar t | sort; tar c one | $D cp - files:/bare; $D cp files:/bare/one - | tar xO; $D export files | tar t | grep '^bare\|^as\|^link\|^src' | sort; $D rm files"##,
    ),
    (
        "init reaps and forwards",
        r##"
        $D run --rm --init $n bb sh -c 'tr "\0" " " < /proc/1/cmdline; echo; exit 4'; echo $?
        $D run --rm --init $n bb nope > /dev/null 2>&1; echo $?; $D run --rm --init $n bb sh -c 'kill -9 $$'; echo $?
        $D run -d --init $n --name asleep bb sleep 1000 > $W/id; $D stop asleep; $D inspect -f '{{.State.ExitCode}}' asleep; $D rm asleep"##,
    ),
    (
        "exec in all its forms",
        r##"
        $D run -d $n --name inner -e A=1 -w /bin bb sleep 1000 > $W/id
        $D exec inner sh -c 'echo $A; pwd'; $D exec -e A=2 -w /tmp -u 5 inner sh -c 'echo $A; pwd; id -u'; echo in | $D exec -i inner cat
        $D exec inner sh -c 'exit 8'; echo $?; $D exec inner nope > /dev/null 2>&1; echo $?; $D exec -d inner touch /tmp/d; sleep 0.5; $D exec inner ls /tmp
        $D pause inner; $D exec inner true > /dev/null 2>&1; echo $?; $D inspect -f '{{.State.Status}}' inner; $D unpause inner
        $D rename inner outer; $D top outer -o pid,comm > /dev/null 2>&1; $D update --restart always outer; $D inspect -f '{{.HostConfig.RestartPolicy.Name}}' outer; $D rm -f outer"##,
    ),
    (
        "top with the options of ps",
        r##"
        $D run -d $n --name busy bb sh -c 'echo up; sleep 1000; true' > $W/id; until $D logs busy | grep -q up; do sleep 0.1; done
        same() { sed -e 's/  *$//' -e 's/[0-9][0-9]*/N/g'; }
        $D top busy | head -1; $D top busy -ef | head -1; $D top busy aux | head -1; $D top busy -eo pid,ppid,comm,args | same; $D top busy -o pid,comm | same
        $D top busy -o pid=X,comm 2>&1 | grep -o "Couldn't find PID field in ps output"; $D top busy -o comm > /dev/null 2>&1; echo $?
        $D top busy -o pid,nope 2>&1 | grep -o 'unknown user-defined format specifier "nope"'; $D top busy -o user:20,pid | head -1; $D top busy axo pid,stat,tty,ni,nlwp,pgid,cmd | same
        $D top busy o pid,sid,rss,vsz,etime,time,%cpu,%mem,uid,gid,ppid,s,tt | head -1; $D top nobody > /dev/null 2>&1; echo $?; $D rm -f busy; $D top busy > /dev/null 2>&1; echo $?"##,
    ),
    (
        "stats once, in a format, and as a stream",
        r##"
        $D run -d $n --name one bb sleep 1000 > $W/one; $D run -d $n --name two bb sleep 1000 > $W/two; $D create $n --name off bb true > $W/off
        id() { cut -c1-12 $W/$1; }; row='{{.Name}} {{.PIDs}} {{.NetIO}} {{.Container}} {{.ID}}'
        $D stats --no-stream two one > $W/1 & $D stats --no-stream --format "$row" two one > $W/2 & $D stats --no-stream --no-trunc --format 'table {{.Name}}\t{{.PIDs}}\t{{.ID}}' > $W/3 &
        $D stats --no-stream --format '{{json .}}' one > $W/4 & $D stats --no-stream -a --format '{{.Name}} {{.PIDs}} {{.CPUPerc}} {{.MemPerc}}' > $W/5 & wait
        head -1 $W/1 | tr -s ' '; sed '1d; s/ .*//' $W/1 > $W/ids; { id two; id one; } | cmp - $W/ids && echo in order; sed -e "s/$(id one)/ONE/g" -e "s/$(id two)/TWO/g" $W/2
        sed -e "s/$(cat $W/one)/ONE/" -e "s/$(cat $W/two)/TWO/" $W/3 | sort; tr ',' '\n' < $W/4 | grep -o '"[A-Za-z]*":' | tr '\n' ' '; echo; sed 's/[0-9.]*%/P/g' $W/5 | sort
        $D stats --no-stream one nope > $W/out 2>&1; echo $?; grep -o 'No such container: nope' $W/out
        $D stats --format '{{.Name}} {{.PIDs}}' one > $W/stream & pid=$!; for i in $(seq 600); do test $(grep -c one $W/stream) -ge 3 && break; sleep 0.1; done; kill $pid; wait $pid 2> /dev/null
        grep -o 'one 1' $W/stream | sort -u; $D rm -f one two off"##,
    ),
    (
        "events by their filters, in a format, and as they come",
        r##"
        $D events --filter type=container --filter event=create --filter event=destroy --format '{{.Action}} {{.Actor.Attributes.name}}' > $W/live & pid=$!
        until test -s $W/live; do $D create $n --name canary bb true > $W/id; $D rm canary > $W/id; sleep 0.1; done; sleep 1.1; since=$(date +%s)
        $D run $n --name told -l k=v bb sh -c 'exit 3'; $D run -d $n --name other bb sleep 1000 > $W/id; $D rename told renamed; $D restart -t 0 other; $D kill other > /dev/null; $D volume create vol > $W/id; $D volume rm vol > $W/id
        $D rm -f renamed; $D rm -f other; for i in $(seq 600); do grep -q 'destroy other' $W/live && break; sleep 0.1; done; kill $pid; wait $pid 2> /dev/null; grep -v canary $W/live
        sleep 1; until=$(date +%s); ev() { echo "-- $*"; $D events --since $since --until $until "$@" 2>&1 | sed -e 's/[0-9a-f]\{64\}/ID/g' -e 's/^20[^ ]*Z/TIME/' -e 's/"\(time\|timeNano\)":[0-9]*/"\1":N/g'; }
        few='--filter event=create --filter event=start --filter event=die --filter event=rename --filter event=restart --filter event=destroy'
        ev $few --format '{{.Type}} {{.Action}}'; ev --filter event=die --filter type=container --format '{{.Action}} {{.Actor.Attributes.name}} {{.Actor.Attributes.exitCode}} {{.From}} {{.Status}} {{.Scope}}'
        ev $few --filter container=renamed --format '{{.Action}}'; ev $few --filter container=told --format '{{.Action}}'; ev $few --filter label=k=v --format '{{.Action}}'
        ev --filter label=k --filter event=start --filter event=create --format '{{.Action}} {{.Actor.Attributes.name}}'; ev --filter label=k=no --format '{{.Action}}'
        ev --filter type=volume --format '{{.Type}} {{.Action}} {{.Actor.ID}}'; ev --filter volume=vol --format '{{.Action}}'; ev --filter image=bb --filter event=create --format '{{.Action}} {{.From}}'
        ev --filter type=nope --format '{{.Action}}'; ev --filter scope=local --filter event=create --format '{{.Type}}'; ev --filter scope=swarm --format '{{.Type}}'; ev --filter event=die
        ev --filter event=rename --filter event=kill --format '{{json .}}' | tr -d '}' | tr ',{' '\n\n' | sort; $D events --filter foo > /dev/null 2>&1; echo $?"##,
    ),
    (
        "namespaces of another container",
        r##"
        $D run -d $n --name host --ipc shareable bb sleep 1000 > $W/id
        $D run --rm --network container:host --pid container:host bb sh -c 'tr "\0" " " < /proc/1/cmdline; echo; ls /sys/class/net'
        $D run --rm $n --ipc container:host bb readlink /proc/self/ns/ipc > $W/a; $D exec host readlink /proc/self/ns/ipc > $W/b; cmp $W/a $W/b && echo joined
        $D exec host sh -c 'echo given > /dev/shm/f'; $D run --rm $n --ipc container:host bb sh -c 'cat /dev/shm/f; echo back > /dev/shm/g; grep -c " /dev/shm tmpfs " /proc/mounts'
        $D exec host cat /dev/shm/g; $D run --rm $n --ipc none bb sh -c 'grep -c " /dev/shm " /proc/mounts'
        $D run -d $n --name own --ipc private bb sleep 1000 > $W/id; $D run --rm $n --ipc container:own bb true 2>&1 | grep -o "can't join IPC of container"
        $D inspect -f '{{.HostConfig.IpcMode}}' host own; $D rm -f own
        test "$($D run --rm $n --ipc host bb readlink /proc/self/ns/ipc)" = "$(readlink /proc/self/ns/ipc)" && echo the host
        for mode in host private; do $D run --rm $n --cgroupns $mode bb readlink /proc/self/ns/cgroup > $W/c; test "$(cat $W/c)" = "$(readlink /proc/self/ns/cgroup)" && echo same || echo other; done
        test "$($D run --rm $n --userns host bb readlink /proc/self/ns/user)" = "$(readlink /proc/self/ns/user)" && echo same user
        $D run --rm $n --pid host bb sh -c 'test $$ != 1 && test -d /proc/2 && echo all processes'
        $D run --rm $n --device /dev/null:/dev/mine bb sh -c 'echo x > /dev/mine && stat -c "%t %T" /dev/mine'
        $D run --rm $n --uts host bb hostname > $W/h; test "$(cat $W/h)" = "$(uname -n)" && echo same; $D rm -f host"##,
    ),
    (
        "a terminal, detach keys, a second shell",
        r##"
        cat > $W/e <<'EOF'
set timeout 60
log_user 0
spawn sh -c "$env(D) run -it --network none --name tty bb"
expect "# "; send "stty size < /dev/tty | wc -w; tty; echo pid \$\$\r"
expect -re {(/dev/\S+).*pid (\d+)} { puts "$expect_out(1,string) $expect_out(2,string)" } timeout { puts "no shell" }
expect "# "; send "ps -o pid,args | grep '^ *1 '\r"; expect -re {\n *(1 sh)\r} { puts "process $expect_out(1,string)" } timeout { puts "no process 1" }
expect "# "; send "\020\021"; expect eof; puts "detached [lindex [wait] 3]"
spawn sh -c "$env(D) attach tty"
send "\r"; expect "# "; send "\020\021"; expect "read escape sequence" { puts said }; expect eof; puts "detached [lindex [wait] 3]"
spawn sh -c "$env(D) exec -it tty sh"
expect "# "; send "\020\021"; expect "read escape sequence" { puts said }; expect eof; puts "detached [lindex [wait] 3]"
spawn sh -c "$env(D) exec -it tty sh"
expect "# "; send "exit 3\r"; expect eof; puts "exec [lindex [wait] 3]"
spawn sh -c "$env(D) attach tty"
send "\r"; expect "# "; send "exit 5\r"; expect eof; puts "attach [lindex [wait] 3]"
EOF
        D="$D" expect $W/e; $D inspect -f '{{.State.Status}} {{.State.ExitCode}}' tty; $D rm tty"##,
    ),
    (
        "info in a format",
        r##"
        $D create $n --name one bb true > $W/id; $D run -d $n --name two bb sleep 1000 > $W/id; $D pause two > $W/id
        $D info -f '{{.Containers}} {{.ContainersRunning}} {{.ContainersPaused}} {{.ContainersStopped}}'; $D rm -f one two
        $D info --format '{{.KernelVersion}} {{.OperatingSystem}} {{.OSType}} {{.Architecture}} {{.NCPU}} {{.MemTotal}} {{.Name}}'
        $D system info --format '{{.Driver}} {{.LoggingDriver}} {{.CgroupDriver}} {{.CgroupVersion}}'; $D info -f '{{json .OSType}}'"##,
    ),
    (
        "containers by every filter",
        r##"
        $D create $n --name first -l kind=a -l own -v vol:/v --expose 80 bb true > $W/id; $D create $n --name second -l kind=b -v /anon bb true > $W/id2
        $D create $n --name third bb sh -c 'exit 3' > $W/id; $D start -a third; $D run -d $n --name fourth bb sleep 1000 > $W/id
        for filter in before=third since=second name=ir name=^/second$ name=^fo label=kind label=kind=a status=created status=running status=exited exited=3 exited=0 \
            ancestor=bb ancestor=nothing network=none network=host volume=vol volume=/anon volume=/v health=none expose=80 expose=80/tcp publish=80 is-task=false; do
            echo "$filter: $($D ps -a -f $filter --format '{{.Names}}' | sort | tr '\n' ' ')"
        done
        echo id: $($D ps -a -f id=$(cut -c1-12 $W/id2) --format '{{.Names}}'); echo two: $($D ps -a -f status=created -f label=own --format '{{.Names}}')
        echo running: $($D ps --format '{{.Names}}'); echo last: $($D ps -n 2 --format '{{.Names}}'); echo latest: $($D ps -l --format '{{.Names}}')
        for filter in nonsense=1 status=odd name; do $D ps -f $filter > /dev/null 2>&1; echo $?; done
        $D rm -fv first second third fourth; $D volume rm vol"##,
    ),
    (
        "events are told and filtered",
        r##"
        since=$(date +%s); $D run --rm $n --name told bb true; sleep 1
        $D events --since $since --until $(date +%s) -f container=told -f event=create -f event=start -f event=die -f event=destroy --format '{{.Type}} {{.Action}}'"##,
    ),
    (
        "containers are pruned",
        r##"
        $D run $n --name old -l scene=prune bb true; $D create $n --name new -l scene=prune bb true > $W/id
        $D container prune -f --filter label=scene=prune | tail -1 | cut -d: -f1; $D ps -aq -f label=scene=prune"##,
    ),
];

/// Who plays the scenes.
struct Player {
    program: String,
    /// The same with another store.
    elsewhere: String,
    /// Whom it runs as, if not as the test.
    user: Option<u32>,
}

impl Player {
    fn longshore(own: &Longshore, elsewhere: &Longshore) -> Self {
        Self { program: own.line(), elsewhere: elsewhere.line(), user: own.user }
    }
}

/// What a scene prints, with the exit code of its last command.
fn play(script: &str, player: &Player, work: &Path) -> String {
    std::fs::create_dir_all(work).expect("a directory");
    let mut shell = Command::new("sh");
    if let Some(user) = player.user {
        std::os::unix::fs::chown(work, Some(user), Some(user)).expect("chown");
        shell = Command::new("setpriv");
        let user = user.to_string();
        shell.args(["--reuid", &user, "--regid", &user, "--clear-groups", "sh"]);
    }
    shell
        .args(["-c", script])
        .env("D", &player.program)
        .env("D2", &player.elsewhere)
        .env("W", work)
        .env("n", "--network none")
        .env("B", "from outside");
    let out = output(&mut shell, 120);
    let (said, complained) = (text(&out.stdout), text(&out.stderr));
    // What goes to standard error is for people; it is compared where a scene asks for it.
    if out.status.code() != Some(0) && said.is_empty() {
        return format!("{} {complained}", out.status);
    }
    said.replace(&work.display().to_string(), "$W")
}

fn command_line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|w| w.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// Paths of all keys in a JSON object, `{}` and lists left as they are.
fn keys(value: &serde_json::Value, prefix: &str, found: &mut Vec<String>) {
    let Some(object) = value.as_object() else { return };
    for (key, value) in object {
        let path = format!("{prefix}.{key}");
        // These are data, not a shape.
        if !["Labels", "LogConfig", "Data", "Ports"].contains(&key.as_str()) {
            keys(value, &path, found);
        }
        found.push(path);
    }
}

/// What of a scene cannot be the same for an ordinary user who has one ID and no cgroups, and why.
const ROOT_ALONE: &[(&str, &str)] = &[
    ("default command, environment, user, directory, entry point", "there is no other user"),
    ("commit freezes what runs, and no longer than it takes", "no freezer cgroup"),
    ("limits limit", "no cgroups"),
    ("rates of block devices", "no cgroups"),
    ("exit codes and words of failed starts", "networks need root, and the error says so"),
    ("exit codes of what fails otherwise", "devices need root, and there is no other user"),
    ("what cannot be is refused in the same words", "devices need root, and the error says so"),
    ("cp both ways", "not into a container that does not run"),
    ("exec in all its forms", "there is no other user, and no freezer cgroup"),
    ("namespaces of another container", "a user namespace of its own"),
    ("stats once, in a format, and as a stream", "no cgroups"),
    ("info in a format", "no freezer cgroup"),
];

/// Longshore as somebody with one ID and no cgroups, with two stores.
fn ordinary_user(dir: &Path, tar: &str) -> Option<[Longshore; 2]> {
    if !have(&["setpriv"]) {
        return None;
    }
    let stores = ["one", "two"].map(|name| {
        std::fs::create_dir(dir.join(name)).expect("a directory");
        Longshore::ordinary(&dir.join(name)).expect("somebody")
    });
    stores[0].import(tar, "bb");
    Some(stores)
}

/// What is wrong with what a scene printed for an ordinary user.
fn without_rights(name: &str, ours: &str, theirs: &str) -> Option<String> {
    (ours != theirs)
        .then(|| format!("== {name}, as an ordinary user\n-- longshore\n{ours}-- docker\n{theirs}"))
}

/// Keys of docker's `inspect` that ours lacks.
fn lacking(longshore: &Longshore, docker: &Dockerd) -> Vec<String> {
    let create =
        ["create", "--network", "none", "--name", "shape", "-v", "/v", "--health-cmd", "true", "bb", "true"];
    longshore.ok(&create);
    succeed(&mut docker.command(&create), 60);
    let shape = |text: &str| {
        let mut found = Vec::new();
        let all: serde_json::Value = serde_json::from_str(text).expect("JSON");
        keys(&all[0], "", &mut found);
        found
    };
    let ours = shape(&longshore.ok(&["inspect", "shape"]));
    let theirs = shape(&succeed(&mut docker.command(&["inspect", "shape"]), 60));
    theirs.into_iter().filter(|key| !ours.contains(key)).collect()
}

#[test]
fn as_with_docker() {
    if !root() {
        return skip("a dockerd needs root");
    }
    if !have(&["busybox", "dockerd", "expect", "tar"]) {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let tar = busybox(dir.path());
    let longshore = Longshore::new(dir.path().join("root"));
    let docker = Dockerd::start(dir.path());
    succeed(&mut docker.command(&["import", "-c", "CMD [\"sh\"]", &tar, "bb"]), 60);
    longshore.import(&tar, "bb");
    let second = Longshore::new(dir.path().join("second"));
    let line = command_line(&docker.command(&[]));
    let theirs = Player { program: line.clone(), elsewhere: line, user: None };
    let ours = Player::longshore(&longshore, &second);
    let only = std::env::var("LONGSHORE_SCENE").unwrap_or_default();
    let ordinary = ordinary_user(dir.path(), &tar);
    let mut differ = Vec::new();
    for (n, (name, script)) in
        SCENES.iter().enumerate().filter(|(_, s)| only.split(',').any(|part| s.0.contains(part)))
    {
        let work = |who: &str| dir.path().join(format!("{who}{n}"));
        let (ours, theirs, unprivileged) = std::thread::scope(|scope| {
            let theirs = scope.spawn(|| play(script, &theirs, &work("docker")));
            let root_alone = ROOT_ALONE.iter().any(|(scene, _)| scene == name);
            let unprivileged = ordinary.as_ref().filter(|_| !root_alone).map(|stores| {
                let player = Player::longshore(&stores[0], &stores[1]);
                let work = stores[0].root.with_file_name(format!("work{n}"));
                scope.spawn(move || play(script, &player, &work))
            });
            let ours = play(script, &ours, &work("longshore"));
            let joined = "another's part";
            (ours, theirs.join().expect(joined), unprivileged.map(|part| part.join().expect(joined)))
        });
        eprintln!("{} {name}", if ours == theirs { "same" } else { "DIFFERENT" });
        if ours != theirs {
            differ.push(format!("== {name}\n-- longshore\n{ours}-- docker\n{theirs}"));
        }
        differ.extend(unprivileged.and_then(|said| without_rights(name, &said, &theirs)));
    }
    let lacking = lacking(&longshore, &docker);
    let left = text(&docker.command(&["ps", "-aq"]).output().expect("docker ps").stdout);
    for id in left.split_whitespace() {
        output(&mut docker.command(&["rm", "-fv", id]), 60);
    }
    assert!(differ.is_empty(), "{} of {} differ\n{}", differ.len(), SCENES.len(), differ.join("\n"));
    assert_eq!(lacking, Vec::<String>::new(), "inspect lacks what docker's has");
}
