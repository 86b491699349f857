package vfs

// Allocate makes the file size bytes long and takes the room for them on the volume now, so that it is
// there when it is wanted. Where the platform cannot, zeros are written. Nothing is synced.
func Allocate(f File, size int64) error {
	if done, err := allocate(f, size); done || err != nil {
		return err
	}
	zeros := make([]byte, 256<<10)
	for off := int64(0); off < size; off += int64(len(zeros)) {
		if _, err := f.WriteAt(zeros[:min(int64(len(zeros)), size-off)], off); err != nil {
			return err
		}
	}
	return nil
}
