// Package script tests runm from outside: each file of testdata is a feature,
// written as the commands that a user types and what must come of them. It is
// run by testscript; README.md there has what the scripts may use.
package script
