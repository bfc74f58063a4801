# SPDX-License-Identifier: Apache-2.0
# Completion of seep for bash. A line for each command: its options. A value that an option
# takes is completed where _seep_values knows it, else as a file.
_seep_commands="run gate check escape recover heap allocs peak lifetimes leak threads set symbolize diff report"

_seep_options() {
	case $1 in
	run) echo "-o --out --mode --sample --seed --leak --suppressions --lifetimes --labels --no-escape --no-threads --no-follow --no-symbolize -O --option --lib -q --quiet -h --help" ;;
	gate) echo "--suppressions --gen-suppressions --since --save --reachable --possible --exitcode --threads --strict --wait -o --out --no-symbolize -O --option --lib -q --quiet -h --help" ;;
	check) echo "--since --save --max-pause --stop --snapshot --standing --possible --reachable --json --no-symbolize --signal --force -q --quiet -h --help" ;;
	leak) echo "-o --out --since --save --max-pause --stop --snapshot --standing --possible --reachable --json --no-symbolize --signal --force -q --quiet -h --help" ;;
	escape) echo "-o --out --from --format --report --top --sample --bound --no-symbolize -O --option --lib -h --help" ;;
	recover) echo "-o --out --lib -h --help" ;;
	heap | allocs | peak | lifetimes) echo "-o --out --signal --force -q --quiet -h --help" ;;
	threads) echo "--created --full -o --out --quick --signal --force -h --help" ;;
	set) echo "--signal --force -h --help" ;;
	symbolize) echo "-o --out -d --debug-dir --demangle -q --quiet -h --help" ;;
	diff) echo "--by --sample-index -n --top --shrunk --format -o --out -h --help" ;;
	report) echo "--format --sample-index -n --top --source-root -o --out -h --help" ;;
	*) echo "-h --help --version" ;;
	esac
}

# The words that may follow the option $2 of the command $1; fails: any file.
_seep_values() {
	case $1,$2 in
	run,--labels) echo "thread size thread,size" ;;
	run,--mode) echo "exact sampled off" ;;
	symbolize,--demangle) echo "none simple templates full" ;;
	diff,--by) echo "stack function line" ;;
	diff,--format | escape,--format) echo "text json" ;;
	report,--format) echo "text json html sarif junit" ;;
	*,--sample-index) echo "inuse_space inuse_objects alloc_space alloc_objects peak_space leaked_space" ;;
	*) return 1 ;;
	esac
}

_seep_takes_value() {
	case $1 in
	-o | --out | --mode | --labels | --sample | --seed | --suppressions | -O | --option | --lib) return 0 ;;
	--exitcode | --wait | -d | --debug-dir | --demangle | --by | --sample-index) return 0 ;;
	--save | --max-pause | --json) return 0 ;;
	-n | --top | --format | --source-root | --gen-suppressions | --signal | --from | --report) return 0 ;;
	*) return 1 ;;
	esac
}

_seep() {
	local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]}
	local command=${COMP_WORDS[1]-} i words
	COMPREPLY=()
	if [ "$COMP_CWORD" = 1 ]; then
		mapfile -t COMPREPLY < <(compgen -W "$_seep_commands $(_seep_options)" -- "$current")
		return
	fi
	case $command in run | gate | escape) # from the program on it is another command's line
		for ((i = 2; i < COMP_CWORD; i++)); do
			case ${COMP_WORDS[i]} in
			--) i=$((i + 1)) ;;
			--since) i=$((i + 1)); continue ;;
			-*) _seep_takes_value "${COMP_WORDS[i]}" && i=$((i + 1)); continue ;;
			esac
			if declare -F _command_offset >/dev/null; then
				_command_offset "$i"
			else
				mapfile -t COMPREPLY < <(compgen -f -- "$current")
			fi
			return
		done
		;;
	esac
	if _seep_takes_value "$previous" || [ "$command $previous" = "gate --since" ]; then
		if words=$(_seep_values "$command" "$previous"); then
			mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
		else
			mapfile -t COMPREPLY < <(compgen -f -- "$current")
		fi
	elif [[ $current == -* ]]; then
		mapfile -t COMPREPLY < <(compgen -W "$(_seep_options "$command")" -- "$current")
	elif [[ $command == run || $command == gate ]]; then
		mapfile -t COMPREPLY < <(compgen -c -- "$current"; compgen -d -- "$current")
	else
		mapfile -t COMPREPLY < <(compgen -f -- "$current")
	fi
}

complete -o filenames -F _seep seep
