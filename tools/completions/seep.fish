# SPDX-License-Identifier: Apache-2.0
# Completion of seep for fish.

function __seep_no_command
    test (count (commandline -opc)) -le 1
end

# The command is one of the arguments, and (for run and gate) the program is not there yet.
function __seep_in
    set -l words (commandline -opc)
    test (count $words) -ge 2; and contains -- $words[2] $argv
end

function __seep_profile_types
    printf '%s\n' inuse_space inuse_objects alloc_space alloc_objects peak_space leaked_space
end

complete -c seep -n __seep_no_command -f
complete -c seep -n __seep_no_command -a run -d 'run a program and profile it'
complete -c seep -n __seep_no_command -a gate -d 'fail when anything in a command leaks'
complete -c seep -n __seep_no_command -a check -d 'say whether a running process has lost memory'
complete -c seep -n __seep_no_command -a escape -d 'which objects need not be on the heap'
complete -c seep -n __seep_no_command -a recover -d 'profiles of a process that was killed'
complete -c seep -n __seep_no_command -a heap -d 'what a running process holds'
complete -c seep -n __seep_no_command -a allocs -d 'what a running process ever allocated'
complete -c seep -n __seep_no_command -a peak -d 'what a running process held at its peak'
complete -c seep -n __seep_no_command -a lifetimes -d 'how long objects of a running process live'
complete -c seep -n __seep_no_command -a leak -d 'what a running process has lost'
complete -c seep -n __seep_no_command -a threads -d 'what the threads of a running process do'
complete -c seep -n __seep_no_command -a set -d 'change what a running process records'
complete -c seep -n __seep_no_command -a symbolize -d 'add lines and inlined frames'
complete -c seep -n __seep_no_command -a diff -d 'what grew between two profiles'
complete -c seep -n __seep_no_command -a report -d 'leaks and profiles in other formats'
complete -c seep -n __seep_no_command -l version -d 'the version'
complete -c seep -s h -l help -d 'the options'

complete -c seep -n '__seep_in run gate escape' -s o -l out -r -d 'names of the files'
complete -c seep -n '__seep_in run gate' -l suppressions -r -d 'leaks to leave out'
complete -c seep -n '__seep_in run gate escape check leak' -l no-symbolize -d 'no lines and inlined frames'
complete -c seep -n '__seep_in run gate escape' -s O -l option -x -d 'an option of the library'
complete -c seep -n '__seep_in run gate escape' -l lib -r -d libseep.so
complete -c seep -n '__seep_in run gate symbolize' -s q -l quiet -d 'no summary'
complete -c seep -n '__seep_in run' -l mode -x -a 'exact sampled off' -d 'what is recorded'
complete -c seep -n '__seep_in run escape' -l sample -x -d 'mean bytes between samples'
complete -c seep -n '__seep_in run' -l seed -x -d 'seed of the random choice'
complete -c seep -n '__seep_in run' -l leak -d 'look for leaks as well'
complete -c seep -n '__seep_in run' -l lifetimes -d 'how long objects live'
complete -c seep -n '__seep_in run' -l labels -x -a 'thread size thread,size' -d 'split sites'
complete -c seep -n '__seep_in run' -l no-escape -d 'no escape profile'
complete -c seep -n '__seep_in run' -l no-threads -d 'no threads profile'
complete -c seep -n '__seep_in run' -l no-follow -d 'only the program itself'
complete -c seep -n '__seep_in run gate escape' -a '(__fish_complete_subcommand --fcs-skip=2)'
complete -c seep -n '__seep_in gate' -l gen-suppressions -r -d 'write suppressions for all leaks'
complete -c seep -n '__seep_in gate check leak' -l reachable -d 'list what is still held as well'
complete -c seep -n '__seep_in gate check leak' -l possible -d 'possibly lost objects count'
complete -c seep -n '__seep_in gate' -l threads -d 'blocked and unjoined threads count'
complete -c seep -n '__seep_in gate' -l exitcode -x -d 'status for leaks'
complete -c seep -n '__seep_in gate' -l wait -x -d 'seconds to wait for what is left behind'
complete -c seep -n '__seep_in gate' -l strict -d '24 when any process was not checked'
complete -c seep -n '__seep_in escape' -l from -r -d 'the report of this profile'
complete -c seep -n '__seep_in escape' -l format -x -a 'text json' -d 'of the report'
complete -c seep -n '__seep_in escape' -l report -r -d 'where to write it'
complete -c seep -n '__seep_in escape' -l top -x -d 'so many places'
complete -c seep -n '__seep_in escape' -l bound -d 'compare stacks instead of counting returns'

complete -c seep -n '__seep_in heap allocs peak lifetimes leak threads recover' -s o -l out -r -d 'where to write'
complete -c seep -n '__seep_in recover' -l lib -r -d libseep.so
complete -c seep -n '__seep_in heap allocs peak lifetimes check leak' -s q -l quiet -d 'no summary'
complete -c seep -n '__seep_in heap allocs peak lifetimes check leak threads set' -l signal -x -d 'signal= of the process'
complete -c seep -n '__seep_in heap allocs peak lifetimes check leak threads set' -l force -d 'ask in spite of a seccomp filter'
complete -c seep -n '__seep_in heap allocs peak lifetimes check leak threads set' -f -a '(__fish_complete_pids)'
complete -c seep -n '__seep_in gate check leak' -l save -r -d 'keep what was found'
complete -c seep -n '__seep_in gate' -l since -r -d 'only leaks that are not in it count'
complete -c seep -n '__seep_in check leak' -l since -d 'only what is new, or not in =FILE'
complete -c seep -n '__seep_in check leak' -l max-pause -x -d 'rather no verdict than a longer one'
complete -c seep -n '__seep_in check leak' -l stop -d 'stop the threads at once'
complete -c seep -n '__seep_in check leak' -l snapshot -d 'look at a copy first'
complete -c seep -n '__seep_in check leak' -l standing -d 'stand still where no snapshot can be made'
complete -c seep -n '__seep_in check leak' -l json -r -d 'the whole report'
complete -c seep -n '__seep_in threads' -a '(__fish_complete_suffix .pb.gz)'
complete -c seep -n '__seep_in threads' -l created -d 'the sites that create threads'
complete -c seep -n '__seep_in threads' -l full -d 'each thread by itself'
complete -c seep -n '__seep_in threads' -l quick -d 'only deadlocks, a short pause'

complete -c seep -n '__seep_in symbolize diff report' -s o -l out -r -d 'where to write'
complete -c seep -n '__seep_in symbolize' -s d -l debug-dir -x -a '(__fish_complete_directories)' -d 'more places to look in'
complete -c seep -n '__seep_in symbolize' -l demangle -x -a 'none simple templates full' -d 'names of C++'
complete -c seep -n '__seep_in diff report' -l sample-index -x -a '(__seep_profile_types)' -d 'which numbers'
complete -c seep -n '__seep_in diff report' -s n -l top -x -d 'so many'
complete -c seep -n '__seep_in diff' -l by -x -a 'stack function line' -d 'what to add up'
complete -c seep -n '__seep_in diff' -l shrunk -d 'what shrank as well'
complete -c seep -n '__seep_in diff' -l format -x -a 'text json' -d 'of the output'
complete -c seep -n '__seep_in report' -l format -x -a 'text json html sarif junit' -d 'of the report'
complete -c seep -n '__seep_in report' -l source-root -x -a '(__fish_complete_directories)' -d 'paths below it are written relative to it'
