package record

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// ControlType is what a control batch says.
type ControlType int16

const (
	Abort  ControlType = 0 // the transaction's records never become visible
	Commit ControlType = 1
)

func (t ControlType) String() string {
	switch t {
	case Abort:
		return "ABORT"
	case Commit:
		return "COMMIT"
	}
	return fmt.Sprintf("control type %d", int16(t))
}

// EndMarker is the record that ends a producer's transaction in one partition.
type EndMarker struct {
	Type             ControlType
	CoordinatorEpoch int32 // of the transaction coordinator, which fences older ones
}

// NewEndMarker returns a control batch that ends the transaction of a producer, at offset 0.
func NewEndMarker(m EndMarker, producerID int64, producerEpoch int16, timestampMs int64) (Batch, error) {
	b := NewBuilder(None)
	b.ProducerID, b.ProducerEpoch, b.Transactional, b.Control = producerID, producerEpoch, true, true
	// Key: version and type; value: version and coordinator epoch. Both versions are 0.
	key := binary.BigEndian.AppendUint16([]byte{0, 0}, uint16(m.Type))
	value := binary.BigEndian.AppendUint32([]byte{0, 0}, uint32(m.CoordinatorEpoch))
	b.Add(timestampMs, key, value)
	return b.Finish()
}

// ControlType is the type of a control batch's record. Types other than Abort and Commit are returned as
// they are; readers skip those. ErrInvalid when b is not a control batch or its key is malformed.
func (b Batch) ControlType() (ControlType, error) {
	m, err := b.controlRecord()
	return m.typ, err
}

// EndMarker reads a marker of type Abort or Commit; other types are ErrInvalid.
func (b Batch) EndMarker() (EndMarker, error) {
	m, err := b.controlRecord()
	if err != nil {
		return EndMarker{}, err
	}
	if m.typ != Abort && m.typ != Commit {
		return EndMarker{}, fmt.Errorf("%w: %s is no end of a transaction", ErrInvalid, m.typ)
	}
	if !m.hasEpoch {
		return EndMarker{}, fmt.Errorf("%w: value of the %s marker at offset %d", ErrInvalid, m.typ, b.BaseOffset())
	}
	return EndMarker{Type: m.typ, CoordinatorEpoch: m.epoch}, nil
}

type controlRecord struct {
	typ      ControlType
	epoch    int32
	hasEpoch bool
}

var errFirstOnly = errors.New("first record read")

func (b Batch) controlRecord() (m controlRecord, err error) {
	if !b.Control() {
		return m, fmt.Errorf("%w: batch at offset %d is no control batch", ErrInvalid, b.BaseOffset())
	}
	found := false
	err = b.Each(0, func(r Record) error {
		if len(r.Key) < 4 || int16(binary.BigEndian.Uint16(r.Key)) < 0 {
			return fmt.Errorf("%w: key of the control record at offset %d", ErrInvalid, r.Offset)
		}
		m.typ = ControlType(binary.BigEndian.Uint16(r.Key[2:]))
		if len(r.Value) >= 6 && int16(binary.BigEndian.Uint16(r.Value)) >= 0 {
			m.epoch, m.hasEpoch = int32(binary.BigEndian.Uint32(r.Value[2:])), true
		}
		found = true
		return errFirstOnly
	})
	if err != nil && err != errFirstOnly {
		return m, err
	}
	if !found {
		return m, fmt.Errorf("%w: control batch at offset %d is empty", ErrInvalid, b.BaseOffset())
	}
	return m, nil
}
