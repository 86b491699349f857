// Package mission has one named test for each thing that Moldau is for, on the real binary as
// a process of its own and with a real client. They are the shortest account of what
// the broker promises; how each promise is kept is tested elsewhere.
package mission
