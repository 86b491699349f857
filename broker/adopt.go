package broker

import (
	"context"
	"errors"

	"fmt"
)

// Adopt takes partition directories into the metadata.
func Adopt(ctx context.Context, dir string, o RunOptions) error {
	return errors.Join(ctx.Err(), fmt.Errorf("adopt %s with %v", dir, o.Flags))
}
