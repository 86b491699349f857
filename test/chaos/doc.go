// Package chaos holds whole brokers and real clients against disks that lose their power.
//
// TestPowerLoss runs a few seeds; SEEDS=1000 runs more (make powerloss), SEED=17 runs one. A seed decides
// the topics, the load, the moments of the cuts and what each of them leaves on the disk. The
// clients, the network and the scheduler are real, so that a seed does not run twice in exactly the
// same way: a failure that does not come back at once comes back with COUNT repetitions of its seed.
package chaos
