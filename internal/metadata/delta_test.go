package metadata

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"

	"moldau/internal/wire"
)

// TestSince compares the delta between two images of a random history with what a comparison of all their topics says.
func TestSince(t *testing.T) {
	for seed := range uint64(50) {
		rnd := rand.New(rand.NewPCG(seed, 7))
		images := []*Image{Empty()}
		for seq := int64(1); seq < 60; seq++ {
			n := byte(rnd.IntN(12))
			id, name := wire.UUID{1, n}, fmt.Sprintf("t%d", n)
			batch := []Change{{Key: HeadKey, Value: EncodeHead(Head{Seq: seq})}}
			ps := []Partition{{Replicas: []int32{1}, ISR: []int32{1}, Leader: 1, LeaderEpoch: int32(seq)}}
			switch rnd.IntN(4) {
			case 0, 1:
				batch = append(batch, Change{Key: StaticKey(id, 0), Value: EncodeStatic(ps)}, Change{Key: DynamicKey(id, 0), Value: EncodeDynamic(ps)},
					Change{Key: TopicKey(id), Value: EncodeTopic(name, 1)})
			case 2:
				batch = append(batch, Change{Key: StaticKey(id, 0), Deleted: true}, Change{Key: DynamicKey(id, 0), Deleted: true}, Change{Key: TopicKey(id), Deleted: true})
			case 3:
				batch = append(batch, Change{Key: ConfigKey(TopicConfig, name), Value: EncodeConfig(map[string]string{"retention.ms": fmt.Sprint(seq)})})
			}
			im, err := images[len(images)-1].Apply(batch)
			if err != nil {
				t.Fatal(err)
			}
			images = append(images, im)
		}
		for range 100 {
			i := rnd.IntN(len(images))
			old, im := images[rnd.IntN(i+1)], images[i]
			d := im.Since(old)
			touched, gone := map[string]bool{}, map[string]bool{}
			for _, x := range d.Touched {
				touched[x.Name] = true
			}
			for _, x := range d.Gone {
				gone[x.Name] = true
			}
			for x := range im.Topics() {
				changed := !reflect.DeepEqual(x, old.Topic(x.Name)) || !reflect.DeepEqual(im.Config(TopicConfig, x.Name), old.Config(TopicConfig, x.Name))
				if changed && !touched[x.Name] {
					t.Fatalf("seed %d: %s changed between %d and %d and is not in the delta", seed, x.Name, old.Seq(), im.Seq())
				}
				if i > 0 && old == images[i-1] && touched[x.Name] && !changed {
					t.Fatalf("seed %d: %s did not change between %d and %d and is in the delta", seed, x.Name, old.Seq(), im.Seq())
				}
			}
			for x := range old.Topics() {
				if (im.TopicByID(x.ID) == nil) != gone[x.Name] {
					t.Fatalf("seed %d: %s: gone is %v", seed, x.Name, gone[x.Name])
				}
			}
		}
	}
}
