// Package network tests the container's network from outside: what a client
// does to the namespace shows in the machine, and packets go both ways.
package network
