package controller

import (
	"fmt"
	"maps"

	"moldau/internal/metadata"
	"moldau/internal/wire"
)

// Feature is a feature that this build has, with the levels that it serves. A cluster has one level of each, the finalized one; 0
// is off.
type Feature struct {
	Name     string
	Min, Max int16
}

// Names of the features, as in Kafka.
const (
	// GroupVersion says which group protocols there are: 1 is the consumer protocol (KIP-848).
	GroupVersion    = "group.version"
	metadataVersion = "metadata.version" // 30 is 4.3-IV0, that of the peer release
)

// Features are all features of this build, by name. One is listed when it is done.
func Features() []Feature {
	return []Feature{{GroupVersion, 0, 1}, {metadataVersion, 7, 30}}
}

// LatestFeatures are the levels of a new cluster.
func LatestFeatures() map[string]int16 {
	levels := map[string]int16{}
	for _, f := range Features() {
		levels[f.Name] = f.Max
	}
	return levels
}

// FeaturesBehind are the features whose level in the cluster is below what this build serves: those of a cluster that an earlier
// build created, or that were switched off. Nothing but a request raises a level, as in Kafka: all brokers of a cluster have to know it.
func FeaturesBehind(im *metadata.Image) (behind []Feature) {
	levels, _ := im.Features()
	for _, f := range Features() {
		if levels[f.Name] < f.Max {
			behind = append(behind, f)
		}
	}
	return behind
}

// UpgradeType is what a change of a feature's level may be, with the protocol's numbers (KIP-778).
type UpgradeType int8

// Kinds of changes.
const (
	FeatureUpgrade         UpgradeType = 1
	FeatureSafeDowngrade   UpgradeType = 2
	FeatureUnsafeDowngrade UpgradeType = 3
)

// FeatureUpdate asks for another level of a feature.
type FeatureUpdate struct {
	Name  string
	Level int16
	Type  UpgradeType
}

// UpdateFeatures plans other levels: all of them or none. Node is who decides; the messages name it. A level of 0 is stored as no
// level, so that the feature is as in a cluster that never had it.
func UpdateFeatures(im *metadata.Image, node int32, updates []FeatureUpdate, validateOnly bool) (Plan, *Rejection) {
	levels, _ := im.Features()
	next := maps.Clone(levels)
	for _, u := range updates {
		if why := checkFeature(node, u, levels[u.Name]); why != "" {
			return Plan{}, &Rejection{wire.InvalidUpdateVersion, "The update failed for all features since the following feature had an error: " + why}
		}
		if next[u.Name] = u.Level; u.Level == 0 {
			delete(next, u.Name)
		}
	}
	var p Plan
	if !validateOnly && !maps.Equal(levels, next) {
		p.add(NoResult, put(metadata.ClusterKey, metadata.EncodeCluster(im.ClusterID(), next, im.Seq()+1)))
	}
	return p, nil
}

// checkFeature says why a feature cannot get that level from its present one, or "".
func checkFeature(node int32, u FeatureUpdate, level int16) string {
	invalid := func(format string, args ...any) string {
		return fmt.Sprintf("Invalid update version %d for feature %s. ", u.Level, u.Name) + fmt.Sprintf(format, args...)
	}
	var of *Feature
	for _, f := range Features() {
		if f.Name == u.Name {
			of = &f
		}
	}
	switch {
	case u.Type < FeatureUpgrade || u.Type > FeatureUnsafeDowngrade:
		return invalid("The controller does not support the given upgrade type.")
	case u.Level < 0:
		return invalid("A feature version cannot be less than 0.")
	case of == nil && u.Level != 0:
		return invalid("Local controller %d does not support this feature.", node)
	case of != nil && (u.Level < of.Min || u.Level > of.Max):
		return invalid("Local controller %d only supports versions %d-%d", node, of.Min, of.Max)
	case u.Level < level && u.Type == FeatureUpgrade:
		return invalid("Can't downgrade the version of this feature without setting the upgrade type to either safe or unsafe downgrade.")
	case u.Level > level && u.Type != FeatureUpgrade:
		return invalid("Can't downgrade to a newer version.")
	case of == nil:
		return invalid("Feature %s not found.", u.Name)
	case u.Level < level && u.Name == metadataVersion && u.Type == FeatureUnsafeDowngrade:
		return fmt.Sprintf("Unsupported metadata.version downgrade from %d to %d. Unsafe metadata downgrade is not supported in this version.", level, u.Level)
	case u.Level < level && u.Name == metadataVersion:
		return fmt.Sprintf("Unsupported metadata.version downgrade from %d to %d. Refusing to perform the requested downgrade because it might delete metadata information.", level, u.Level)
	}
	return ""
}
