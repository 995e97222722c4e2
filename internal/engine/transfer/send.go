package transfer

import (
	"context"

	"brig/api"
	"brig/internal/image"
)

func (t *Transfer) sendTo(ctx context.Context, r api.TransferRequest, p image.Platform) (api.TransferReply, error) {
	return api.TransferReply{}, nil
}
