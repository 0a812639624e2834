//go:build linux

package main

import (
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// flagsFirst moves a command's flags in front of its arguments, because runc
// takes them anywhere (`runc delete ID --force`) and urfave/cli v2 does not.
// After exec's and ps's container id the words are another program's.
func flagsFirst(app *cli.App, args []string) []string {
	i := 1
	for i < len(args) && isFlag(args[i]) {
		i += max(1, flagWords(app.Flags, args[i:]))
	}
	if i >= len(args) {
		return args
	}
	cmd := app.Command(args[i])
	if cmd == nil || cmd.Name == "exec" || cmd.Name == "ps" {
		return args
	}
	if i+1 < len(args) {
		for _, sub := range cmd.Subcommands {
			if sub.HasName(args[i+1]) {
				cmd, i = sub, i+1
				break
			}
		}
	}
	flags, rest := []string{}, args[i+1:]
	var words []string
	for len(rest) > 0 {
		if rest[0] == "--" {
			words = append(words, rest...)
			break
		}
		n := flagWords(cmd.Flags, rest)
		if n == 0 || !isFlag(rest[0]) {
			words = append(words, rest[0])
			rest = rest[1:]
			continue
		}
		n = min(n, len(rest))
		flags = append(flags, rest[:n]...)
		rest = rest[n:]
	}
	return slices.Concat(args[:i+1], flags, words)
}

func isFlag(word string) bool { return len(word) > 1 && word[0] == '-' && word != "--" }

// flagWords is how many words the flag in words[0] takes; 0 if it is not among
// flags.
func flagWords(flags []cli.Flag, words []string) int {
	name, _, hasValue := strings.Cut(strings.TrimLeft(words[0], "-"), "=")
	for _, f := range flags {
		if !slices.Contains(f.Names(), name) {
			continue
		}
		if d, ok := f.(cli.DocGenerationFlag); ok && d.TakesValue() && !hasValue {
			return 2
		}
		return 1
	}
	if name == "help" || name == "h" {
		return 1
	}
	return 0
}
